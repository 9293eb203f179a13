//! Requests to nodes: one answer, or a stream of frames handed on to the client.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use carrack_api::client::FrameReader;
use carrack_api::http::FRAMES;
use carrack_api::stream::Frame;
use carrack_api::{NodeId, NodeRequest, Problem};
use serde::de::DeserializeOwned;
use tokio::io::{DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use crate::wiring::Inner;

/// Frames that wait for a slow client; then the node waits.
const FRAMES_QUEUED: usize = 64;
/// Time a daemon that has just started waits for its first node.
const FIRST_NODE_WAIT: Duration = Duration::from_secs(5);

/// An open stream to a node.
pub(super) struct Call {
    pub(super) frames: FrameReader<ReadHalf<DuplexStream>>,
    pub(super) input: WriteHalf<DuplexStream>,
}

/// Opens a stream to a node.
pub(super) async fn open(inner: &Inner, node: &NodeId, request: NodeRequest) -> Result<Call, Problem> {
    let stream = open_raw(inner, node, request).await?;
    let (read, input) = tokio::io::split(stream);
    Ok(Call { frames: FrameReader::new(read), input })
}

/// Opens a stream to a node as plain bytes.
pub(super) async fn open_raw(
    inner: &Inner,
    node: &NodeId,
    request: NodeRequest,
) -> Result<DuplexStream, Problem> {
    let Some(gateway) = inner.gateway.get() else {
        return Err(
            Problem::new(503, "no-node", "the daemon's node is not up yet").hint("try it again in a moment")
        );
    };
    gateway.open(node, request).await
}

impl Call {
    /// The next frame; a stream that breaks off is a problem.
    pub(super) async fn next(&mut self) -> Result<Frame, Problem> {
        next(&mut self.frames).await
    }
}

async fn next(frames: &mut FrameReader<ReadHalf<DuplexStream>>) -> Result<Frame, Problem> {
    match frames.next().await {
        Ok(Some(Frame::Problem(problem))) => Err(problem),
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(Problem::new(502, "node-stream", "the node ended its answer early")),
        Err(error) => Err(Problem::new(502, "node-stream", format!("the node's answer broke off: {error}"))),
    }
}

/// Asks a node for one value.
pub(super) async fn ask<T: DeserializeOwned>(
    inner: &Inner,
    node: &NodeId,
    request: NodeRequest,
    deadline: Duration,
) -> Result<T, Problem> {
    let answer = async {
        let mut call = open(inner, node, request).await?;
        loop {
            if let Frame::Done(json) = call.next().await? {
                return serde_json::from_slice(&json).map_err(|e| {
                    Problem::new(502, "node-stream", format!("the node's answer cannot be read: {e}"))
                });
            }
        }
    };
    tokio::time::timeout(deadline, answer).await.unwrap_or_else(|_| {
        let text = format!("node {node} did not answer within {} s", deadline.as_secs());
        Err(Problem::new(504, "node-timeout", text))
    })
}

/// A node that was heard. Right after a start, waits a moment for the first.
pub(super) async fn any_node(inner: &Inner) -> Result<NodeId, Problem> {
    let mut observations = inner.cluster.observations.subscribe();
    let heard = async {
        observations.wait_for(|o| !o.nodes.is_empty()).await.map(|o| o.nodes.keys().next().cloned())
    };
    match tokio::time::timeout(FIRST_NODE_WAIT, heard).await {
        Ok(Ok(Some(node))) => Ok(node),
        Ok(Ok(None) | Err(_)) | Err(_) => Err(Problem::new(503, "no-node", "no node has reported yet")
            .hint("`carrack doctor` says what its host lacks")),
    }
}

/// Where a handler's task puts frames for the client; a client that went away ends it.
#[derive(Clone)]
pub(super) struct Sink(mpsc::Sender<Bytes>);

/// The client is gone.
#[derive(Debug)]
pub(super) struct Gone;

impl Sink {
    /// Sends a frame; waits while the client is slow.
    pub(super) async fn send(&self, frame: &Frame) -> Result<(), Gone> {
        self.0.send(frame.encode().into()).await.map_err(|_| Gone)
    }

    /// Resolves when the client is gone.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// A body of frames that `work` fills.
pub(super) fn stream<F>(work: impl FnOnce(Sink) -> F) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(FRAMES_QUEUED);
    tokio::spawn(work(Sink(sender)));
    let chunks = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|bytes| (Ok::<_, std::convert::Infallible>(bytes), receiver))
    });
    ([(header::CONTENT_TYPE, FRAMES)], Body::from_stream(chunks)).into_response()
}

/// Hands all frames of an answer on, its end included.
pub(super) async fn relay_frames(
    mut frames: FrameReader<ReadHalf<DuplexStream>>,
    sink: &Sink,
) -> Result<(), Gone> {
    loop {
        let frame = tokio::select! {
            frame = next(&mut frames) => frame,
            () = sink.closed() => return Err(Gone),
        };
        match frame {
            Ok(frame) => {
                sink.send(&frame).await?;
                if matches!(frame, Frame::Done(_)) {
                    return Ok(());
                }
            }
            Err(problem) => return sink.send(&Frame::Problem(problem)).await,
        }
    }
}

/// Every node that was heard.
pub(super) fn heard(inner: &Arc<Inner>) -> Vec<NodeId> {
    inner.cluster.observed().nodes.keys().cloned().collect()
}
