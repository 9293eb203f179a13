//! How things look. Everything here is pure but [`board`] and [`meter`], which draw on standard error.

pub(crate) mod board;
pub(crate) mod change;
pub(crate) mod facts;
pub(crate) mod log;
pub(crate) mod meter;
pub(crate) mod report;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod task;

use carrack_api::{PortMode, Protocol, PublishedPort};

/// Where a published port is reached from this host, as a URL when the port is one that mostly speaks HTTP.
pub(crate) fn url(port: &PublishedPort) -> Option<String> {
    let number = port.published?;
    let host = match port.host_ip {
        None => "localhost".to_owned(),
        Some(ip) if ip.is_unspecified() || ip.is_loopback() => "localhost".to_owned(),
        Some(std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
        Some(ip) => ip.to_string(),
    };
    let host_mode = if port.mode == PortMode::Host { " (on the task's node)" } else { "" };
    Some(match (port.protocol, port.target) {
        (Protocol::Udp, _) => format!("{host}:{number}/udp{host_mode}"),
        (Protocol::Tcp, 443 | 8443) => format!("https://{host}:{number}{host_mode}"),
        (Protocol::Tcp, 80 | 3000 | 4000 | 5000 | 8000 | 8080 | 8081 | 8888 | 9000 | 9090) => {
            format!("http://{host}:{number}{host_mode}")
        }
        (Protocol::Tcp, _) => format!("{host}:{number}{host_mode}"),
    })
}

/// `1 task`, `3 tasks`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_port_is_shown_as_it_is_reached() {
        let port = |target, host_ip: Option<&str>, protocol| PublishedPort {
            target,
            published: Some(8080),
            range: None,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            protocol,
            mode: PortMode::Ingress,
        };
        assert_eq!(url(&port(80, None, Protocol::Tcp)).unwrap(), "http://localhost:8080");
        assert_eq!(url(&port(6379, Some("127.0.0.1"), Protocol::Tcp)).unwrap(), "localhost:8080");
        assert_eq!(url(&port(53, Some("192.0.2.7"), Protocol::Udp)).unwrap(), "192.0.2.7:8080/udp");
        assert_eq!(url(&PublishedPort { published: None, ..port(80, None, Protocol::Tcp) }), None);
    }
}
