//! How far a load or pull has come, told to whoever asked for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far a load or pull has come; bytes and layers only rise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes received so far (compressed); content already present counts as received.
    pub received_bytes: u64,
    /// Bytes to receive; `None` while unknown (an archive from a stream).
    pub total_bytes: Option<u64>,
    /// Layers unpacked so far; layers already present count.
    pub layers_done: u32,
    /// Layers of the image or images; 0 while unknown.
    pub layers_total: u32,
    /// Seconds that the registry asked to wait for, while that is what is done; else 0.
    pub waiting_seconds: u32,
}

/// Receives progress; called often and from several threads, so it must be quick.
#[derive(Clone)]
pub struct ProgressSink(Arc<dyn Fn(Progress) + Send + Sync>);

impl ProgressSink {
    /// A sink that calls `report`.
    pub fn new(report: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    /// A sink that ignores everything.
    pub fn ignore() -> Self {
        Self::new(|_| {})
    }
}

impl std::fmt::Debug for ProgressSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProgressSink")
    }
}

/// Sums up what the parts of one operation report.
#[derive(Debug)]
pub(crate) struct Meter {
    sink: ProgressSink,
    received: AtomicU64,
    total: AtomicU64,
    layers_done: AtomicU64,
    layers_total: AtomicU64,
    waiting: AtomicU64,
}

impl Meter {
    pub(crate) fn new(sink: ProgressSink) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            sink,
            received: zero(),
            total: zero(),
            layers_done: zero(),
            layers_total: zero(),
            waiting: zero(),
        }
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.report();
    }

    pub(crate) fn expect(&self, bytes: u64, layers: usize) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
        self.layers_total.fetch_add(layers as u64, Ordering::Relaxed);
        self.report();
    }

    pub(crate) fn layer_done(&self) {
        self.layers_done.fetch_add(1, Ordering::Relaxed);
        self.report();
    }

    /// Says that the registry asked to wait, or with 0 that the wait is over.
    pub(crate) fn waiting(&self, seconds: u64) {
        self.waiting.store(seconds, Ordering::Relaxed);
        self.report();
    }

    fn report(&self) {
        let count = |value: &AtomicU64| u32::try_from(value.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        let total = self.total.load(Ordering::Relaxed);
        (self.sink.0)(Progress {
            received_bytes: self.received.load(Ordering::Relaxed),
            total_bytes: (total > 0).then_some(total),
            layers_done: count(&self.layers_done),
            layers_total: count(&self.layers_total),
            waiting_seconds: count(&self.waiting),
        });
    }
}
