//! The text of a container's `/etc/resolv.conf`. Pure.
//!
//! Owns: our defaults and how a Compose file's `dns`, `dns_search` and `dns_opt` change them. Does not own: writing the
//! file, nor parsing the host's (`upstream`).

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::model::DNS_ADDRESS;

/// Options in effect when the file names none: one dot makes a name absolute, a lost packet is asked again soon.
const DEFAULT_OPTIONS: [&str; 3] = ["ndots:1", "timeout:1", "attempts:2"];

/// What a service asks for; empty lists mean the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvOptions {
    /// Resolvers in place of ours. For a container on our networks leave this empty and put Compose's `dns` into
    /// [`super::DnsView::upstreams`]: it then keeps its service names, as with Docker. With the host's network it goes
    /// here.
    pub nameservers: Vec<IpAddr>,
    /// Compose `dns_search`; a single `.` means no search domain.
    pub search: Vec<String>,
    /// Compose `dns_opt`; an option replaces the default of the same name.
    pub options: Vec<String>,
}

/// The search domain of a stack's containers.
pub fn search_domain(stack: &str) -> String {
    format!("{stack}.carrack")
}

/// The content of `/etc/resolv.conf` for a container of `stack`.
pub fn resolv_conf(stack: &str, wanted: &ResolvOptions) -> String {
    let mut text = String::new();
    let ours = [IpAddr::V4(DNS_ADDRESS)];
    let nameservers = if wanted.nameservers.is_empty() { &ours[..] } else { &wanted.nameservers };
    for nameserver in nameservers {
        let _ = writeln!(text, "nameserver {nameserver}");
    }
    let search = if wanted.search.is_empty() { vec![search_domain(stack)] } else { wanted.search.clone() };
    if search.iter().all(|domain| domain != ".") {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    let name_of = |option: &str| option.split(':').next().unwrap_or(option).to_owned();
    let set: Vec<String> = wanted.options.iter().map(|option| name_of(option)).collect();
    let defaults = DEFAULT_OPTIONS.into_iter().filter(|option| !set.contains(&name_of(option)));
    let options: Vec<&str> = defaults.chain(wanted.options.iter().map(String::as_str)).collect();
    let _ = writeln!(text, "options {}", options.join(" "));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults() {
        assert_eq!(
            resolv_conf("hello", &ResolvOptions::default()),
            "nameserver 169.254.1.53\nsearch hello.carrack\noptions ndots:1 timeout:1 attempts:2\n"
        );
    }

    #[test]
    fn a_file_overrides_what_it_names() {
        let wanted = ResolvOptions {
            nameservers: vec!["1.1.1.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            search: vec!["a.example".into(), "b.example".into()],
            options: vec!["ndots:3".into(), "use-vc".into()],
        };
        assert_eq!(
            resolv_conf("hello", &wanted),
            "nameserver 1.1.1.1\nnameserver 2001:db8::1\nsearch a.example b.example\n\
             options timeout:1 attempts:2 ndots:3 use-vc\n"
        );
    }

    #[test]
    fn a_dot_means_no_search_domain() {
        let wanted = ResolvOptions { search: vec![".".into()], ..ResolvOptions::default() };
        assert!(!resolv_conf("hello", &wanted).contains("search"));
    }
}
