//! Keys of a service: networks, ports, names, and whom it waits for.

use super::{Key, anyway, exact, later, mapped, never, place};

const ONE_INTERFACE: &str = "a task has one interface for all its networks";
const FIXED: &str = "fixed addresses are not built yet";
const BY_NAME: &str = "use the service's name";

pub(super) const KEYS: &[Key] = &[
    exact("services.networks", "networks: [n]"),
    exact("services.networks.aliases", "networks: {n: {aliases: [a]}}"),
    later("services.networks.ipv4_address", "networks: {n: {ipv4_address: 10.0.0.2}}", FIXED, BY_NAME),
    later("services.networks.ipv6_address", "networks: {n: {ipv6_address: 'fd00::2'}}", FIXED, BY_NAME),
    never(
        "services.networks.link_local_ips",
        "networks: {n: {link_local_ips: [169.254.8.8]}}",
        "link-local addresses belong to the node's name server",
        "take it away",
    )
    .cosmetic(),
    later(
        "services.networks.mac_address",
        "networks: {n: {mac_address: '02:42:ac:11:00:02'}}",
        "fixed MAC addresses are not built yet",
        "take it away; networks here are routed and no MAC address leaves the node",
    )
    .cosmetic(),
    later(
        "services.networks.interface_name",
        "networks: {n: {interface_name: e0}}",
        "names of interfaces are not built yet",
        "take it away; the interface is eth0",
    )
    .cosmetic(),
    later(
        "services.networks.driver_opts",
        "networks: {n: {driver_opts: {a: b}}}",
        "options of a network's driver are not built yet",
        "take it away",
    )
    .cosmetic(),
    mapped("services.networks.priority", "networks: {n: {priority: 1}}", ONE_INTERFACE),
    mapped("services.networks.gw_priority", "networks: {n: {gw_priority: 1}}", ONE_INTERFACE),
    exact("services.network_mode", "network_mode: host").of("host"),
    exact("services.network_mode", "network_mode: none").of("none"),
    mapped(
        "services.network_mode",
        "network_mode: bridge",
        "the service is on the default network of its stack",
    )
    .of("bridge"),
    later(
        "services.network_mode",
        "network_mode: service:t",
        "sharing the network of another container is not built yet",
        "use host or none, or leave it out",
    )
    .of("service:NAME, container:NAME"),
    later(
        "services.mac_address",
        "mac_address: 02:42:ac:11:00:02",
        "fixed MAC addresses are not built yet",
        "take it away; networks here are routed and no MAC address leaves the node",
    )
    .cosmetic(),
    exact("services.dns", "dns: 1.1.1.1"),
    exact("services.dns_search", "dns_search: [a.b]"),
    exact("services.dns_opt", "dns_opt: ['ndots:3']"),
    exact("services.extra_hosts", "extra_hosts: ['a=1.2.3.4']"),
    place("services.ports"),
    exact("services.ports.target", "ports: ['81:80']"),
    exact("services.ports.published", "ports: ['81:80']"),
    exact("services.ports.published", "ports: ['8000-9000:80']").of("a range for one target"),
    exact("services.ports.host_ip", "ports: ['127.0.0.1:81:80']"),
    exact("services.ports.protocol", "ports: ['81:80/udp']"),
    later("services.ports.protocol", "ports: ['81:80/sctp']", "SCTP is not built yet", "use tcp or udp")
        .of("sctp"),
    exact("services.ports.mode", "ports: [{target: 80, published: 81, mode: host}]"),
    anyway("services.ports.name", "ports: [{target: 80, name: web}]"),
    mapped(
        "services.ports.app_protocol",
        "ports: [{target: 80, app_protocol: http}]",
        "is carried as plain TCP or UDP",
    ),
    exact("services.expose", "expose: [80]"),
    exact("services.links", "links: [t]"),
    mapped("services.links", "links: ['t:db']", "is an alias that the whole network sees")
        .of("SERVICE:ALIAS"),
    later(
        "services.external_links",
        "external_links: [x]",
        "links to other stacks are not built yet",
        "put both on one external network",
    ),
];
