//! Streams of server-sent events: the view of one stack, and what happened.
//!
//! A view is whole by meaning, so views that a slow client missed are simply left out. Ids let a client resume.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use carrack_api::{Event, Problem, StackName, StackView, Timestamp};
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::Deserialize;
use tokio::sync::watch;
use utoipa::IntoParams;

use super::App;
use super::info::world;
use super::problem::Params;
use crate::place::hash;
use crate::plan::Observations;
use crate::store::Snapshot;
use crate::wiring::Inner;

/// Time between comments that keep an idle stream open.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Least time between two views.
const VIEW_GAP: Duration = Duration::from_millis(50);
/// A view depends on time a little; it is made again after this long without a change.
const VIEW_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WatchParams {
    /// The stack, which need not exist yet.
    #[param(value_type = String)]
    stack: StackName,
}

type Answer<S> = Sse<axum::response::sse::KeepAliveStream<S>>;

/// `stack` events, each with the whole view, whenever it changed; the first comes at once. Resumes by `Last-Event-ID`.
#[utoipa::path(get, path = "/v1/watch", params(WatchParams),
    responses((status = 200, body = StackView, content_type = "text/event-stream"), (status = 400, body = Problem)))]
pub(super) async fn stack(
    State(inner): App,
    Params(params): Params<WatchParams>,
    headers: HeaderMap,
) -> Answer<impl Stream<Item = Result<SseEvent, Infallible>>> {
    let watcher = Watcher {
        changes: inner.cluster.store.watch(),
        reports: inner.cluster.observations.subscribe(),
        inner,
        stack: params.stack,
        last: last_id(&headers).and_then(|id| u64::from_str_radix(&id, 16).ok()),
        first: true,
    };
    let events = unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        Some((Ok(event), watcher))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

fn last_id(headers: &HeaderMap) -> Option<String> {
    headers.get("last-event-id").and_then(|v| v.to_str().ok()).map(str::to_owned)
}

struct Watcher {
    inner: Arc<Inner>,
    stack: StackName,
    changes: watch::Receiver<Arc<Snapshot>>,
    reports: watch::Receiver<Arc<Observations>>,
    /// Hash of the view sent last.
    last: Option<u64>,
    first: bool,
}

impl Watcher {
    /// The next view that differs; `None` when the server ends.
    async fn next(&mut self) -> Option<SseEvent> {
        loop {
            if !std::mem::replace(&mut self.first, false) {
                tokio::time::sleep(VIEW_GAP).await;
                tokio::select! {
                    changed = self.changes.changed() => changed.ok()?,
                    changed = self.reports.changed() => changed.ok()?,
                    () = tokio::time::sleep(VIEW_AGAIN) => {}
                }
            }
            self.changes.mark_unchanged();
            self.reports.mark_unchanged();
            let view: StackView = world(&self.inner, |world| world.stack_view(&self.stack));
            let json = serde_json::to_string(&view).ok()?;
            let id = hash(0, &json);
            if self.last.replace(id) != Some(id) {
                return Some(SseEvent::default().event("stack").id(format!("{id:016x}")).data(json));
            }
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventParams {
    /// Only those after this id.
    #[serde(default)]
    after: u64,
    /// Only from this moment on, milliseconds since the epoch.
    #[param(value_type = Option<u64>)]
    since: Option<Timestamp>,
    /// Stays and sends new ones.
    #[serde(default)]
    follow: bool,
}

/// What happened, as `event` events whose id is the event's. Resumes by `Last-Event-ID`.
#[utoipa::path(get, path = "/v1/events", params(EventParams),
    responses((status = 200, body = Event, content_type = "text/event-stream"), (status = 400, body = Problem)))]
pub(super) async fn events(
    State(inner): App,
    Params(params): Params<EventParams>,
    headers: HeaderMap,
) -> Answer<impl Stream<Item = Result<SseEvent, Infallible>>> {
    let resumed = last_id(&headers).and_then(|id| id.parse().ok()).unwrap_or(0);
    let after = params.after.max(resumed);
    let teller =
        Teller { newest: inner.cluster.events.watch(), inner, after, params, waiting: VecDeque::new() };
    let events = unfold(teller, |mut teller| async move {
        let event = teller.next().await?;
        Some((Ok(event), teller))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

struct Teller {
    inner: Arc<Inner>,
    newest: watch::Receiver<u64>,
    params: EventParams,
    after: u64,
    waiting: VecDeque<Event>,
}

impl Teller {
    async fn next(&mut self) -> Option<SseEvent> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                self.after = event.id;
                let json = serde_json::to_string(&event).ok()?;
                return Some(SseEvent::default().event("event").id(event.id.to_string()).data(json));
            }
            self.newest.mark_unchanged();
            self.waiting = self.inner.cluster.events.after(self.after, self.params.since).into();
            if self.waiting.is_empty() {
                if !self.params.follow {
                    return None;
                }
                self.newest.changed().await.ok()?;
            }
        }
    }
}
