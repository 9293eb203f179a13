//! Manifests and indices of both families (OCI, Docker), parsed with bounds. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::{MAX_LAYERS, Platform};
use super::digest::Digest;

/// Largest manifest or index, in bytes (the limit of Docker's registry).
pub(crate) const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
/// Most descriptors of one index.
const MAX_DESCRIPTORS: usize = 4096;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A pointer to a blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<DescriptorPlatform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The platform that an index names for a manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DescriptorPlatform {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, platform: None, annotations: BTreeMap::new() }
    }

    /// Whether this is a build attestation and not an image.
    fn is_attestation(&self) -> bool {
        self.annotations.contains_key("vnd.docker.reference.type")
            || self.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
    }
}

/// What to run: a config and layers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// A choice of manifests, by platform.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageIndex {
    pub(crate) manifests: Vec<Descriptor>,
}

/// A document that a reference may lead to.
#[derive(Debug, Clone)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(ImageIndex),
}

/// Parses a manifest or an index, told apart by content: media types are not always sent.
pub(crate) fn parse(document: &[u8]) -> Result<Document, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Probe {
        schema_version: Option<u32>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let text = |error: serde_json::Error| error.to_string();
    let probe: Probe = serde_json::from_slice(document).map_err(text)?;
    match (probe.schema_version, probe.config.is_some(), probe.manifests.is_some()) {
        (Some(2), true, false) => {
            let manifest: Manifest = serde_json::from_slice(document).map_err(text)?;
            if manifest.layers.len() > MAX_LAYERS {
                return Err(format!("{} layers, more than {MAX_LAYERS}", manifest.layers.len()));
            }
            Ok(Document::Manifest(manifest))
        }
        (_, false, true) => {
            let index: ImageIndex = serde_json::from_slice(document).map_err(text)?;
            if index.manifests.len() > MAX_DESCRIPTORS {
                return Err(format!("{} manifests, more than {MAX_DESCRIPTORS}", index.manifests.len()));
            }
            Ok(Document::Index(index))
        }
        (Some(1), ..) => Err("it is a Docker schema 1 manifest, which is no longer supported".to_owned()),
        _ => Err("it is neither an image manifest nor an index".to_owned()),
    }
}

/// Whether a layer's media type is one that can be unpacked here; foreign layers live elsewhere.
pub(crate) fn check_layer_type(media_type: &str) -> Result<(), String> {
    let known = media_type.is_empty()
        || media_type.starts_with(OCI_LAYER)
        || media_type.starts_with("application/vnd.docker.image.rootfs.diff.tar");
    let readable = media_type.rsplit_once('+').is_none_or(|(_, packed)| matches!(packed, "gzip" | "zstd"));
    if known && readable {
        Ok(())
    } else {
        Err(format!("layer type '{}' is not supported", media_type.escape_debug()))
    }
}

/// The manifest for `platform`; a manifest without a platform counts when nothing matches better.
/// The error lists what is offered.
pub(crate) fn select<'a>(index: &'a ImageIndex, platform: &Platform) -> Result<&'a Descriptor, Vec<String>> {
    let images = || index.manifests.iter().filter(|descriptor| !descriptor.is_attestation());
    let exact = |descriptor: &&Descriptor| {
        descriptor.platform.as_ref().is_some_and(|offered| offered.variant == platform.variant)
    };
    let matching: Vec<&Descriptor> = images()
        .filter(|descriptor| {
            descriptor.platform.as_ref().is_some_and(|offered| {
                platform.accepts(&offered.os, &offered.architecture, offered.variant.as_deref())
            })
        })
        .collect();
    let any = || images().find(|descriptor| descriptor.platform.is_none());
    matching.iter().copied().find(exact).or(matching.first().copied()).or_else(any).ok_or_else(|| {
        images()
            .filter_map(|descriptor| descriptor.platform.as_ref())
            .map(|offered| match &offered.variant {
                Some(variant) => format!("{}/{}/{variant}", offered.os, offered.architecture),
                None => format!("{}/{}", offered.os, offered.architecture),
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[(&str, &str, Option<&str>)]) -> ImageIndex {
        let manifests = platforms
            .iter()
            .map(|(os, architecture, variant)| {
                let mut descriptor = Descriptor::new(
                    OCI_MANIFEST,
                    Digest::of(format!("{os}{architecture}{variant:?}").as_bytes()),
                    1,
                );
                descriptor.platform = (!os.is_empty()).then(|| DescriptorPlatform {
                    os: (*os).to_owned(),
                    architecture: (*architecture).to_owned(),
                    variant: variant.map(str::to_owned),
                });
                descriptor
            })
            .collect();
        ImageIndex { manifests }
    }

    fn platform(architecture: &str, variant: Option<&str>) -> Platform {
        Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.map(str::to_owned),
        }
    }

    #[test]
    fn the_exact_variant_wins_over_a_general_one() {
        let index = index(&[
            ("linux", "amd64", None),
            ("linux", "arm64", None),
            ("linux", "arm64", Some("v8")),
            ("unknown", "unknown", None),
        ]);
        let chosen = |platform: &Platform| select(&index, platform).unwrap().digest.clone();
        assert_eq!(chosen(&platform("amd64", None)), index.manifests[0].digest);
        assert_eq!(chosen(&platform("arm64", Some("v8"))), index.manifests[2].digest);
        let offered = select(&index, &platform("riscv64", None)).unwrap_err();
        assert_eq!(offered, ["linux/amd64", "linux/arm64", "linux/arm64/v8"], "attestations are not offers");
    }

    #[test]
    fn a_manifest_without_a_platform_is_taken_when_nothing_matches_better() {
        let index = index(&[("", "", None), ("windows", "amd64", None)]);
        assert!(select(&index, &platform("amd64", None)).is_ok());
    }

    #[test]
    fn documents_are_told_apart_by_content() {
        let digest = Digest::of(b"");
        let manifest =
            format!(r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":1}},"layers":[]}}"#);
        assert!(matches!(parse(manifest.as_bytes()), Ok(Document::Manifest(_))));
        assert!(matches!(parse(br#"{"schemaVersion":2,"manifests":[]}"#), Ok(Document::Index(_))));
        assert!(parse(br#"{"schemaVersion":1,"fsLayers":[]}"#).unwrap_err().contains("schema 1"));
        for bad in [&b"{}"[..], b"", b"[]", br#"{"schemaVersion":2,"config":{},"manifests":[]}"#] {
            assert!(parse(bad).is_err());
        }
    }

    #[test]
    fn foreign_and_encrypted_layers_are_refused() {
        for good in [
            "",
            OCI_LAYER,
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ] {
            assert_eq!(check_layer_type(good), Ok(()), "{good}");
        }
        for bad in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.in-toto+json",
        ] {
            assert!(check_layer_type(bad).is_err(), "{bad}");
        }
    }
}
