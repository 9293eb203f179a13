//! Long bodies of clients on their way to a node, as frames: nothing is kept here, and a client that stalls is let go.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use carrack_api::Problem;
use carrack_api::client::write_frame;
use carrack_api::stream::{FRAME_MAX_BYTES, Frame};
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncWrite, DuplexStream, WriteHalf};

use super::nodes::{Call, Gone, relay_frames, stream};

/// Longest pause of a client within a body: it holds one of a bounded number of connections.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// How a body ended.
#[derive(Debug, PartialEq, Eq)]
enum Fed {
    /// It was read to its end.
    Whole,
    /// The client went away, or the node did.
    Broken,
    /// Nothing came for [`IDLE_MAX`].
    Idle,
}

/// Hands a body to a node and answers with the node's frames.
pub(super) fn relay_body(call: Call, body: Body) -> Response {
    let Call { frames, input } = call;
    stream(|sink| async move {
        let feeding = feed(body.into_data_stream(), input);
        let answering = relay_frames(frames, &sink);
        tokio::pin!(feeding, answering);
        let fed = tokio::select! {
            fed = &mut feeding => fed,
            answered = &mut answering => {
                // The rest of the body is read on: a client that still sends hears the answer only after that.
                if answered.is_ok() && feeding.await != Fed::Whole {
                    tracing::debug!("a body was not read to its end");
                }
                return;
            }
        };
        // A client that is gone needs no end.
        let _: Result<(), Gone> = match fed {
            Fed::Whole | Fed::Broken => answering.await,
            Fed::Idle => sink.send(&Frame::Problem(idle())).await,
        };
    })
}

fn idle() -> Problem {
    let text = format!("nothing of the body arrived for {} s", IDLE_MAX.as_secs());
    Problem::new(408, "slow-body", text).hint("send it again; what was sent so far is dropped")
}

/// Hands the body on as `Data` frames and an empty one. When the node stops reading, the rest is read and dropped; when the
/// client breaks off or stalls, the node sees the end of its stream without the empty frame.
async fn feed<E>(
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    mut input: WriteHalf<DuplexStream>,
) -> Fed {
    let mut open = true;
    loop {
        let chunk = match tokio::time::timeout(IDLE_MAX, body.next()).await {
            Err(_) => return Fed::Idle,
            Ok(None) => break,
            Ok(Some(Err(_))) => return Fed::Broken,
            Ok(Some(Ok(chunk))) => chunk,
        };
        for piece in chunk.chunks(FRAME_MAX_BYTES) {
            open = open && send(&mut input, piece).await;
        }
    }
    if open && write_frame(&mut input, &Frame::Data(Vec::new())).await.is_err() {
        return Fed::Broken;
    }
    Fed::Whole
}

async fn send(input: &mut (impl AsyncWrite + Unpin), piece: &[u8]) -> bool {
    write_frame(input, &Frame::Data(piece.to_vec())).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrack_api::client::FrameReader;
    use futures_util::stream as values;

    fn pieces(texts: &[&'static str]) -> Vec<Result<Bytes, std::io::Error>> {
        texts.iter().map(|text| Ok(Bytes::from_static(text.as_bytes()))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stalls_is_let_go_and_the_node_sees_no_end() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (_, input) = tokio::io::split(ours);
        let stalled = values::iter(pieces(&["begun"])).chain(values::pending());
        let (fed, seen) = tokio::join!(feed(stalled, input), async {
            let mut frames = FrameReader::new(theirs);
            let mut seen = Vec::new();
            while let Ok(Some(frame)) = frames.next().await {
                seen.push(frame);
            }
            seen
        });
        assert_eq!(fed, Fed::Idle);
        assert_eq!(seen, [Frame::Data(b"begun".to_vec())]);
        assert_eq!(idle().status, 408);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_that_goes_on_is_waited_for() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (_, input) = tokio::io::split(ours);
        let slow = Box::pin(values::iter(pieces(&["a", "b", "c"])).then(|piece| async {
            tokio::time::sleep(IDLE_MAX - Duration::from_secs(1)).await;
            piece
        }));
        assert_eq!(feed(slow, input).await, Fed::Whole);
        let mut frames = FrameReader::new(theirs);
        let mut data = Vec::new();
        while let Ok(Some(Frame::Data(bytes))) = frames.next().await {
            data.push(bytes);
        }
        assert_eq!(data, [b"a".to_vec(), b"b".to_vec(), b"c".to_vec(), Vec::new()]);
    }
}
