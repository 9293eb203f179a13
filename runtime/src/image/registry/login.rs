//! Whether a registry accepts credentials, asked before anybody keeps them. Reads no image.

use std::sync::Arc;

use http::{Method, StatusCode};

use super::server::Ask;
use super::{Listed, Registry};
use crate::image::credentials::Credentials;
use crate::image::error::{Error, Result};
use crate::image::progress::{Meter, ProgressSink};
use crate::image::reference::ImageReference;
use crate::image::store::ImageStore;

/// The repository that the request for a token names when the registry's challenge names none.
const ANY_REPOSITORY: &str = "library/carrack-login";

impl ImageStore {
    /// Shows credentials to a registry: `Ok` when it accepts them, [`Error::Unauthorized`] when not. A registry that asks nobody
    /// for credentials accepts all.
    pub async fn login(&self, registry: &str, credentials: &Credentials) -> Result<()> {
        let reference = ImageReference::parse(&format!("{registry}/{ANY_REPOSITORY}"))
            .ok()
            .filter(|reference| reference.registry() == registry)
            .ok_or_else(|| Error::RegistryConfig {
                reason: format!("{registry:?} is not a registry's host[:port]"),
            })?;
        let meter = Arc::new(Meter::new(ProgressSink::ignore()));
        Registry::new(&reference, Some(credentials), &self.inner.options.registries, meter)?.login().await
    }
}

impl Registry {
    /// `GET /v2/`, which every registry has and which needs what any other request needs.
    async fn login(&self) -> Result<()> {
        let Some(Listed { server, .. }) = self.servers.last() else { return Ok(()) };
        let ask = Ask { method: Method::GET, path: String::new(), accept: "application/json", offset: 0 };
        let response = server.ask(&ask).await?;
        match response.status() {
            StatusCode::OK => Ok(()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::Unauthorized {
                image: "any image".to_owned(),
                registry: server.name.clone(),
                hint: "the user name or the password is wrong",
            }),
            _ => Err(server.status_error(response).await),
        }
    }
}
