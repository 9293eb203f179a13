//! placeholder
use crate::wiring::Inner;
use std::sync::Arc;
pub(crate) async fn serve(
    _i: Arc<Inner>,
    _l: tokio::net::UnixListener,
    _s: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    Ok(())
}
