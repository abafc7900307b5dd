//! Is the server there, and which models does it serve?

use std::time::Duration;

use anyhow::{Context, bail};
use glint_proto::v1::{ModelsRequest, inference_client::InferenceClient};
use http::Uri;
use serde::Deserialize;
use tokio::task::LocalSet;

use crate::target::{self, Endpoint};

/// A server that does not list its models by then is not there.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Where a server is and how it is talked to.
pub(super) struct Place<'a> {
    pub(super) url: &'a Uri,
    pub(super) endpoint: Endpoint,
    pub(super) api_key: Option<&'a str>,
    pub(super) ca: Option<&'a [u8]>,
}

#[derive(Deserialize)]
struct Listed {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

/// The model to ask: the one that is wanted, if the server lists it, else its first.
pub(super) fn choose(place: &Place<'_>, wanted: Option<&str>) -> anyhow::Result<String> {
    let url = place.url;
    if !matches!(url.scheme_str(), Some("http" | "https" | "grpc" | "grpcs"))
        || url.host().is_none()
    {
        bail!(
            "{url} is no address of a server: write it like http://127.0.0.1:8080 or grpc://127.0.0.1:8081"
        );
    }
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        bail!("leave user and password out of the URL: --api-key takes the key");
    }
    if !matches!(url.path(), "" | "/" | "/v1" | "/v1/") {
        bail!("{url}: leave the path {} out, the API is asked at /v1", url.path());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listed = LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(TIMEOUT, list(place))
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", TIMEOUT.as_secs())))
    });
    let models = listed
        .with_context(|| format!("cannot list the models of {url}; is the server running?"))?;
    // A server without a list takes whatever model is named.
    let models = match (models, wanted) {
        (Some(models), _) => models,
        (None, Some(wanted)) => return Ok(wanted.to_owned()),
        (None, None) => bail!("{url} does not list its models: name one with --model"),
    };
    match (wanted, models.first()) {
        (Some(wanted), _) if models.iter().any(|model| model == wanted) => Ok(wanted.to_owned()),
        (Some(wanted), Some(_)) => {
            bail!("{url} serves no model {wanted}; it serves {}", models.join(", "))
        }
        (None, Some(first)) => Ok(first.clone()),
        (_, None) => bail!("{url} serves no model yet"),
    }
}

/// The models that the server lists; `None` where it has no list.
async fn list(place: &Place<'_>) -> anyhow::Result<Option<Vec<String>>> {
    if place.endpoint == Endpoint::Grpc {
        return list_grpc(place).await.map(Some);
    }
    let mut parts = place.url.clone().into_parts();
    parts.path_and_query = Some("/v1/models".parse()?);
    let page = Uri::from_parts(parts)?;
    let response = target::get(&page, place.api_key, place.ca).await.map_err(anyhow::Error::msg)?;
    if matches!(response.status().as_u16(), 404 | 405 | 501) {
        return Ok(None);
    }
    let body = target::success(response).map_err(anyhow::Error::msg)?;
    let listed: Listed = serde_json::from_slice(&body)
        .with_context(|| format!("{page} is no list of models as OpenAI's API has it"))?;
    Ok(Some(listed.data.into_iter().map(|model| model.id).collect()))
}

async fn list_grpc(place: &Place<'_>) -> anyhow::Result<Vec<String>> {
    let channel = target::grpc_address(place.url, place.ca)?.connect().await?;
    let mut request = tonic::Request::new(ModelsRequest {});
    if let Some(key) = place.api_key {
        request.metadata_mut().insert("authorization", format!("Bearer {key}").parse()?);
    }
    let models = InferenceClient::new(channel).models(request).await?.into_inner().models;
    Ok(models.into_iter().map(|model| model.name).collect())
}
