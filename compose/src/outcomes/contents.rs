//! Secrets, configs, images that are built, and whom a service waits for.

use super::{Key, anyway, exact, later, mapped, place};

const DRIVER_HINT: &str = "take it away; content is stored as it is";
const BUILDX: &str =
    "docker with buildx does it; with a builder that cannot, the build is an error that says so";
const CHROOT: &str = "is for the builder to keep, and buildah that runs commands in a chroot does not";
const NO_DRIVER: &str = "options of a driver mean nothing without one";

pub(super) const KEYS: &[Key] = &[
    place("services.depends_on"),
    exact("services.depends_on.condition", "depends_on: {t: {condition: service_healthy}}"),
    exact("services.depends_on.required", "depends_on: {t: {condition: service_started, required: false}}"),
    mapped(
        "services.depends_on.required",
        "depends_on: {x: {condition: service_started, required: false}}",
        "is not in this file and not waited for",
    )
    .of("false, of a service that is not there"),
    exact("services.depends_on.restart", "depends_on: {t: {condition: service_started, restart: true}}"),
    place("services.secrets"),
    exact("services.secrets.source", "secrets: [{source: c, target: x}]"),
    exact("services.secrets.target", "secrets: [{source: c, target: x}]"),
    exact("services.secrets.uid", "secrets: [{source: c, uid: '33'}]"),
    exact("services.secrets.gid", "secrets: [{source: c, gid: '33'}]"),
    exact("services.secrets.mode", "secrets: [{source: c, mode: 0o400}]"),
    place("services.configs"),
    exact("services.configs.source", "configs: [{source: c, target: /x}]"),
    exact("services.configs.target", "configs: [{source: c, target: /x}]"),
    exact("services.configs.uid", "configs: [{source: c, uid: '33'}]"),
    exact("services.configs.gid", "configs: [{source: c, gid: '33'}]"),
    exact("services.configs.mode", "configs: [{source: c, mode: 0o400}]"),
    place("secrets"),
    exact("secrets.file", "{secrets: {k: {file: a.env}}, services: {s: {image: i, secrets: [k]}}}"),
    exact("secrets.environment", "{secrets: {k: {environment: A}}, services: {s: {image: i, secrets: [k]}}}"),
    exact("secrets.external", "{secrets: {k: {external: true}}, services: {s: {image: i, secrets: [k]}}}"),
    exact(
        "secrets.external.name",
        "{secrets: {k: {external: {name: m}}}, services: {s: {image: i, secrets: [k]}}}",
    ),
    exact("secrets.name", "{secrets: {k: {file: a.env, name: m}}, services: {s: {image: i, secrets: [k]}}}"),
    exact(
        "secrets.labels",
        "{secrets: {k: {file: a.env, labels: {a: b}}}, services: {s: {image: i, secrets: [k]}}}",
    ),
    later(
        "secrets.driver",
        "{secrets: {k: {file: a.env, driver: x}}, services: {s: {image: i, secrets: [k]}}}",
        "drivers of secrets are not built yet",
        DRIVER_HINT,
    )
    .of("any"),
    mapped(
        "secrets.driver_opts",
        "{secrets: {k: {file: a.env, driver_opts: {a: b}}}, services: {s: {image: i, secrets: [k]}}}",
        NO_DRIVER,
    ),
    later(
        "secrets.template_driver",
        "{secrets: {k: {file: a.env, template_driver: golang}}, services: {s: {image: i, secrets: [k]}}}",
        "drivers of secrets are not built yet",
        DRIVER_HINT,
    )
    .of("any"),
    place("configs"),
    exact("configs.file", "{configs: {k: {file: a.env}}, services: {s: {image: i, configs: [k]}}}"),
    exact("configs.environment", "{configs: {k: {environment: A}}, services: {s: {image: i, configs: [k]}}}"),
    exact("configs.content", "{configs: {k: {content: x}}, services: {s: {image: i, configs: [k]}}}"),
    exact("configs.external", "{configs: {k: {external: true}}, services: {s: {image: i, configs: [k]}}}"),
    exact(
        "configs.external.name",
        "{configs: {k: {external: {name: m}}}, services: {s: {image: i, configs: [k]}}}",
    ),
    exact("configs.name", "{configs: {k: {file: a.env, name: m}}, services: {s: {image: i, configs: [k]}}}"),
    exact(
        "configs.labels",
        "{configs: {k: {file: a.env, labels: {a: b}}}, services: {s: {image: i, configs: [k]}}}",
    ),
    later(
        "configs.template_driver",
        "{configs: {k: {file: a.env, template_driver: golang}}, services: {s: {image: i, configs: [k]}}}",
        "drivers of configs are not built yet",
        DRIVER_HINT,
    )
    .of("any"),
    exact("services.build", "build: ."),
    exact("services.build.context", "build: {context: ./sub}"),
    exact("services.build.dockerfile", "build: {dockerfile: D}"),
    exact("services.build.dockerfile_inline", "build: {dockerfile_inline: FROM x}"),
    exact("services.build.args", "build: {args: {A: b}}"),
    exact("services.build.target", "build: {target: t}"),
    exact("services.build.labels", "build: {labels: {a: b}}"),
    exact("services.build.tags", "build: {tags: [a/b]}"),
    exact("services.build.cache_from", "build: {cache_from: [a]}"),
    exact("services.build.cache_to", "build: {cache_to: [a]}"),
    exact("services.build.no_cache", "build: {no_cache: true}"),
    mapped("services.build.no_cache_filter", "build: {no_cache_filter: [t]}", BUILDX),
    exact("services.build.pull", "build: {pull: true}"),
    exact("services.build.platforms", "build: {platforms: [linux/arm64]}"),
    later(
        "services.build.platforms",
        "build: {platforms: [linux/arm64, linux/amd64]}",
        "an image is built for one platform",
        "name one of them in `platform` of the service",
    )
    .of("several"),
    mapped(
        "services.build.platforms",
        "{platform: linux/arm64, build: {platforms: [linux/arm64, linux/amd64]}}",
        "the image is built for {} alone, as `platform` says",
    )
    .of("several, with `platform`"),
    mapped("services.build.network", "build: {network: host}", CHROOT),
    mapped("services.build.shm_size", "build: {shm_size: 1m}", CHROOT),
    exact("services.build.extra_hosts", "build: {extra_hosts: ['a=1.2.3.4']}"),
    exact("services.build.ssh", "build: {ssh: [default]}"),
    exact("services.build.ulimits", "build: {ulimits: {nofile: 9}}"),
    exact("services.build.ulimits.soft", "build: {ulimits: {nofile: {soft: 1, hard: 2}}}"),
    exact("services.build.ulimits.hard", "build: {ulimits: {nofile: {soft: 1, hard: 2}}}"),
    place("services.build.secrets"),
    exact("services.build.secrets.source", "build: {secrets: [{source: c, target: x}]}"),
    exact("services.build.secrets.target", "build: {secrets: [{source: c, target: x}]}"),
    exact("services.build.additional_contexts", "build: {additional_contexts: {a: ./b}}"),
    mapped("services.build.privileged", "build: {privileged: true}", BUILDX),
    mapped("services.build.entitlements", "build: {entitlements: [network.host]}", BUILDX),
    mapped("services.build.provenance", "build: {provenance: 'true'}", BUILDX),
    mapped("services.build.sbom", "build: {sbom: 'true'}", BUILDX),
    mapped(
        "services.build.secrets.uid",
        "build: {secrets: [{source: c, uid: '7'}]}",
        "the Dockerfile says owner and mode of a build's secret",
    ),
    mapped(
        "services.build.secrets.gid",
        "build: {secrets: [{source: c, gid: '7'}]}",
        "the Dockerfile says owner and mode of a build's secret",
    ),
    mapped(
        "services.build.secrets.mode",
        "build: {secrets: [{source: c, mode: 0o400}]}",
        "the Dockerfile says owner and mode of a build's secret",
    ),
    anyway("services.build.isolation", "build: {isolation: default}").of("default"),
    later(
        "services.build.isolation",
        "build: {isolation: hyperv}",
        "is a setting of Windows",
        "take it away",
    )
    .of("others"),
];
