//! Names of images as far as the scheduler compares them: the same image written in two ways. Pure.

/// The registry of a name that has none.
const DEFAULT_REGISTRY: &str = "docker.io";

/// The registry a name leads to.
pub(crate) fn registry(name: &str) -> &str {
    match host(name) {
        "index.docker.io" => DEFAULT_REGISTRY,
        host => host,
    }
}

fn host(name: &str) -> &str {
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => DEFAULT_REGISTRY,
    }
}

/// `nginx` as `docker.io/library/nginx:latest`. A digest after the tag is kept, and a name with a digest gets no tag.
pub(crate) fn normalise(name: &str) -> String {
    let written = host(name);
    let host = registry(name);
    let path = name.strip_prefix(written).and_then(|p| p.strip_prefix('/')).unwrap_or(name);
    let library = if host == DEFAULT_REGISTRY && !path.contains('/') { "library/" } else { "" };
    let (bare, _) = path.split_once('@').unwrap_or((path, ""));
    let tagged = bare.rsplit('/').next().unwrap_or_default().contains(':') || path.contains('@');
    let tag = if tagged { "" } else { ":latest" };
    format!("{host}/{library}{path}{tag}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_written_out() {
        for (short, long) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("grafana/loki", "docker.io/grafana/loki:latest"),
            ("docker.io/library/nginx:1", "docker.io/library/nginx:1"),
            ("index.docker.io/library/nginx:1", "docker.io/library/nginx:1"),
            ("localhost:5000/web", "localhost:5000/web:latest"),
            ("ghcr.io/a/b:x", "ghcr.io/a/b:x"),
            ("nginx@sha256:00", "docker.io/library/nginx@sha256:00"),
        ] {
            assert_eq!(normalise(short), long, "{short}");
        }
        assert_eq!((registry("a/b"), registry("reg:5000/b")), ("docker.io", "reg:5000"));
        assert_eq!(registry("index.docker.io/library/nginx"), "docker.io");
    }
}
