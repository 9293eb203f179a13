//! Keys at the top of the file.

use super::{Key, anyway, exact, later, mapped, place};

const OWN_RANGE: &str = "addresses come from the cluster's own range";
const MODELS: &str = "models are not built yet";
const MODELS_HINT: &str = "run a server of models as a service, and give its address in `environment`";

pub(super) const KEYS: &[Key] = &[
    exact("name", "{name: p, services: {s: {image: i}}}"),
    mapped("version", "{version: '3', services: {s: {image: i}}}", "means nothing any more"),
    place("include"),
    exact("include.path", "{include: [other.yaml], services: {s: {image: i}}}"),
    exact("include.env_file", "{include: [{path: inner.yaml, env_file: a.env}], services: {s: {image: i}}}"),
    exact(
        "include.project_directory",
        "{include: [{path: inner.yaml, project_directory: /sub}], services: {s: {image: i}}}",
    ),
    exact("networks", "{networks: {n: {}}, services: {s: {image: i, networks: [n]}}}"),
    exact("networks.name", "{networks: {n: {name: m}}, services: {s: {image: i, networks: [n]}}}"),
    exact("networks.external", "{networks: {n: {external: true}}, services: {s: {image: i, networks: [n]}}}"),
    exact(
        "networks.external.name",
        "{networks: {n: {external: {name: m}}}, services: {s: {image: i, networks: [n]}}}",
    ),
    exact("networks.internal", "{networks: {n: {internal: true}}, services: {s: {image: i, networks: [n]}}}"),
    exact("networks.labels", "{networks: {n: {labels: {a: b}}}, services: {s: {image: i, networks: [n]}}}"),
    anyway("networks.driver", "{networks: {n: {driver: bridge}}, services: {s: {image: i, networks: [n]}}}")
        .of("bridge, overlay"),
    later(
        "networks.driver",
        "{networks: {n: {driver: macvlan}}, services: {s: {image: i, networks: [n]}}}",
        "there is no network driver {:?}",
        "use bridge or overlay, which are the same here, or leave it out",
    )
    .of("others"),
    mapped(
        "networks.driver_opts",
        "{networks: {n: {driver_opts: {a: b}}}, services: {s: {image: i, networks: [n]}}}",
        "options of a network's driver mean nothing here",
    ),
    mapped(
        "networks.ipam",
        "{networks: {n: {ipam: {driver: default}}}, services: {s: {image: i, networks: [n]}}}",
        OWN_RANGE,
    ),
    mapped(
        "networks.ipam.*",
        "{networks: {n: {ipam: {config: [{subnet: 10.1.0.0/16}]}}}, services: {s: {image: i, networks: [n]}}}",
        OWN_RANGE,
    ),
    mapped(
        "networks.attachable",
        "{networks: {n: {attachable: true}}, services: {s: {image: i, networks: [n]}}}",
        "every network is open to further tasks",
    ),
    anyway(
        "networks.enable_ipv4",
        "{networks: {n: {enable_ipv4: true}}, services: {s: {image: i, networks: [n]}}}",
    )
    .of("true"),
    later(
        "networks.enable_ipv4",
        "{networks: {n: {enable_ipv4: false}}, services: {s: {image: i, networks: [n]}}}",
        "networks without IPv4 are not built yet",
        "leave it out",
    )
    .of("false"),
    mapped(
        "networks.enable_ipv6",
        "{networks: {n: {enable_ipv6: true}}, services: {s: {image: i, networks: [n]}}}",
        "addresses are IPv4 only for now",
    ),
    exact("volumes", "{volumes: {wol: {}}, services: {s: {image: i, volumes: ['wol:/w']}}}"),
    exact("volumes.name", "{volumes: {wol: {name: x}}, services: {s: {image: i, volumes: ['wol:/w']}}}"),
    exact(
        "volumes.external",
        "{volumes: {wol: {external: true}}, services: {s: {image: i, volumes: ['wol:/w']}}}",
    ),
    exact(
        "volumes.external.name",
        "{volumes: {wol: {external: {name: x}}}, services: {s: {image: i, volumes: ['wol:/w']}}}",
    ),
    exact(
        "volumes.labels",
        "{volumes: {wol: {labels: {a: b}}}, services: {s: {image: i, volumes: ['wol:/w']}}}",
    ),
    anyway(
        "volumes.driver",
        "{volumes: {wol: {driver: local}}, services: {s: {image: i, volumes: ['wol:/w']}}}",
    )
    .of("local"),
    later(
        "volumes.driver",
        "{volumes: {wol: {driver: rexray}}, services: {s: {image: i, volumes: ['wol:/w']}}}",
        "there is no volume driver {:?}",
        "use local, or leave it out",
    )
    .of("others"),
    mapped(
        "volumes.driver_opts",
        "{volumes: {wol: {driver_opts: {type: none, o: bind, device: /srv}}}, services: {s: {image: i, volumes: ['wol:/w']}}}",
        "the volume is {} of the node that takes the deploy; the tasks stay there",
    )
    .of("o: bind"),
    mapped(
        "volumes.driver_opts",
        "{volumes: {wol: {driver_opts: {type: tmpfs, device: tmpfs, o: 'size=1m'}}}, services: {s: {image: i, volumes: ['wol:/w']}}}",
        "the volume is memory, and each task has its own",
    )
    .of("type: tmpfs"),
    later(
        "volumes.driver_opts",
        "{volumes: {wol: {driver_opts: {type: nfs}}}, services: {s: {image: i, volumes: ['wol:/w']}}}",
        "options of a volume's driver are built for bind and tmpfs alone",
        "mount it on the hosts and use a bind mount",
    )
    .of("others"),
    later("models", "{models: {m: {model: x}}, services: {s: {image: i}}}", MODELS, MODELS_HINT),
    later("models.*", "{models: {m: {model: x}}, services: {s: {image: i}}}", MODELS, MODELS_HINT),
];
