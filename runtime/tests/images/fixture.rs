//! Layers and archives made in memory, and a store in a directory of its own.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use carrack_runtime::image::{
    Digest, Error, Image, ImageReference, ImageStore, LoadOptions, LoadedImage, ProgressSink, StoreOptions,
};
use tar::{EntryType, Header};

/// A store that is removed with everything in it.
pub(crate) struct Store {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: ImageStore,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self::with(StoreOptions::default())
    }

    pub(crate) fn with(options: StoreOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("images"), options).unwrap();
        Self { dir, store }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("images").join(path)
    }

    pub(crate) fn load(&self, archive: &[u8]) -> Result<Vec<LoadedImage>, Error> {
        self.store.load(archive, &LoadOptions::default(), &ProgressSink::ignore())
    }

    pub(crate) fn get(&self, name: &str) -> Option<Image> {
        self.store.get(&ImageReference::parse(name).unwrap()).unwrap()
    }

    /// The directory of the only layer of `name`.
    pub(crate) fn layer(&self, name: &str) -> PathBuf {
        let image = self.get(name).unwrap();
        self.store.layers(&image)[0].clone()
    }

    /// Panics unless the store holds nothing at all.
    pub(crate) fn assert_empty(&self, context: &str) {
        assert!(self.store.list().unwrap().is_empty(), "{context}: an image is visible");
        for part in ["blobs", "layers", "tmp"] {
            assert_eq!(names(&self.path(part)), Vec::<String>::new(), "{context}: left in {part}");
        }
    }
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A layer under construction; names go into headers as they are, whatever they are.
#[derive(Default)]
pub(crate) struct Layer {
    tar: Vec<u8>,
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn header(kind: EntryType, name: &str) -> Header {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        header
    }

    pub(crate) fn raw(mut self, mut header: Header, data: &[u8]) -> Self {
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(data);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        let mut header = Self::header(EntryType::Regular, name);
        header.set_size(data.len() as u64);
        self.raw(header, data)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        let header = Self::header(EntryType::Directory, name);
        self.raw(header, b"")
    }

    pub(crate) fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        let mut header = Self::header(kind, name);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.raw(header, b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, name, target)
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Link, name, target)
    }

    pub(crate) fn device(self, kind: EntryType, name: &str) -> Self {
        let mut header = Self::header(kind, name);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        self.raw(header, b"")
    }

    /// A PAX header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + rest.to_string().len();
            if length.to_string().len() + rest != length {
                length += 1;
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        let mut header = Self::header(EntryType::XHeader, "pax");
        header.set_size(data.len() as u64);
        self.raw(header, &data)
    }

    pub(crate) fn build(mut self) -> Vec<u8> {
        self.tar.resize(self.tar.len() + 1024, 0);
        self.tar
    }
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

/// The architecture of this machine as images name it.
pub(crate) fn architecture() -> String {
    carrack_runtime::image::Platform::host().architecture
}

/// A config for uncompressed layers.
pub(crate) fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", Digest::of(layer))).collect();
    format!(
        r#"{{"os":"linux","architecture":"{}","config":{{"Cmd":["/bin/true"],"User":"web"}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        architecture(),
        diff_ids.join(",")
    )
    .into_bytes()
}

pub(crate) fn descriptor(media_type: &str, data: &[u8], extra: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":{}{extra}}}"#, Digest::of(data), data.len())
}

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

pub(crate) fn manifest(config: &[u8], blobs: &[Vec<u8>]) -> Vec<u8> {
    let layers: Vec<String> = blobs.iter().map(|blob| descriptor(LAYER_TYPE, blob, "")).collect();
    format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        descriptor("application/vnd.oci.image.config.v1+json", config, ""),
        layers.join(",")
    )
    .into_bytes()
}

/// An OCI archive of one image with the name `name`; `pack` makes the blobs from the layers.
pub(crate) fn archive(name: &str, layers: &[Vec<u8>], pack: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let blobs: Vec<Vec<u8>> = layers.iter().map(|layer| pack(layer)).collect();
    let config = config(layers);
    let manifest = manifest(&config, &blobs);
    let annotation = format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{name}"}}"#);
    let index = index(&[descriptor(MANIFEST_TYPE, &manifest, &annotation)]);
    let mut files = vec![("index.json".to_owned(), index), blob_file(&config), blob_file(&manifest)];
    files.extend(blobs.iter().map(|blob| blob_file(blob)));
    files_archive(&files)
}

pub(crate) fn index(descriptors: &[String]) -> Vec<u8> {
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptors.join(",")).into_bytes()
}

pub(crate) fn blob_file(data: &[u8]) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", Digest::of(data).hex()), data.to_vec())
}

pub(crate) fn files_archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    files.iter().fold(Layer::new(), |archive, (name, data)| archive.file(name, data)).build()
}

/// An archive of one uncompressed layer, named `test`.
pub(crate) fn single(layer: Layer) -> Vec<u8> {
    archive("test", &[layer.build()], <[u8]>::to_vec)
}

pub(crate) fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}
