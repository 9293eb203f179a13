//! HTTP client.
#[derive(Debug, Default)]
pub(super) struct Client {}
impl Client { pub(super) fn new() -> Self { Self {} } }
