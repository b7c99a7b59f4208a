//! Bodies of requests: each is bounded, and so are all of them together.

use std::mem::size_of;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::Request;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::StreamExt as _;

use crate::App;
use crate::error::ApiError;

/// Bytes that bodies may take together, where one of them may not be larger still.
const ROOM: usize = 256 << 20;
/// Bytes of a body, and values in it, that take no room: most requests need no more.
const FREE: (usize, usize) = (64 << 10, 1 << 10);
/// Bytes that a value takes, read and read once more into what it means.
const VALUE: usize = 2 * size_of::<Value>();
/// Room is counted in so many bytes.
const UNIT: usize = 1 << 10;

/// What bodies take together, until their requests are answered or begin to be.
pub(crate) struct Room {
    units: Arc<Semaphore>,
    bytes: usize,
}

impl Room {
    pub(crate) fn new(max_body: usize) -> Self {
        let bytes = ROOM.max(max_body.saturating_mul(4)).min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(bytes / UNIT)), bytes }
    }
}

/// What the body of one request takes; clones are of the same request.
#[derive(Clone, Default)]
pub(crate) struct Load(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Load {
    /// Makes it so many bytes at least.
    ///
    /// # Errors
    /// 413 for more than there ever is, 503 for more than there is now.
    fn grow(&self, room: &Room, bytes: usize) -> Result<(), ApiError> {
        if bytes > room.bytes {
            return Err(ApiError::values(room.bytes / VALUE));
        }
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let more =
            bytes.div_ceil(UNIT).saturating_sub(held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        let busy = || ApiError::bodies(room.bytes);
        let more = u32::try_from(more).map_err(|_| busy())?;
        let permit = Arc::clone(&room.units).try_acquire_many_owned(more).map_err(|_| busy())?;
        match held.as_mut() {
            Some(held) => held.merge(permit),
            None => *held = Some(permit),
        }
        Ok(())
    }
}

/// Reads a body as a JSON object.
///
/// # Errors
/// 413 beyond the limit, 408 where it takes too long, 503 where others take all room, 400 for what is no JSON object.
pub(super) async fn body(app: &App, request: Request) -> Result<Value, ApiError> {
    let limit = app.settings.max_body;
    let stated = request.headers().get("content-length").and_then(|n| n.to_str().ok()?.parse::<usize>().ok());
    if stated.is_some_and(|n| n > limit) {
        return Err(ApiError::too_large(limit));
    }
    let load = request.extensions().get::<Load>().cloned().unwrap_or_default();
    let arrival = app.settings.arrival;
    let late = |_| ApiError::timeout(format!("the body did not arrive within {} s", arrival.as_secs()));
    let bytes = tokio::time::timeout(arrival, whole(app, request, &load)).await.map_err(late)??;
    let values = values(&bytes).saturating_sub(FREE.1).saturating_mul(VALUE);
    load.grow(&app.room, values.saturating_add(bytes.len().saturating_sub(FREE.0)))?;
    let json: Value =
        serde_json::from_slice(&bytes).map_err(|e| ApiError::invalid(format!("the body is no JSON: {e}")))?;
    match json.is_object() {
        true => Ok(json),
        false => Err(ApiError::invalid("the body is no JSON object")),
    }
}

async fn whole(app: &App, request: Request, load: &Load) -> Result<Vec<u8>, ApiError> {
    let limit = app.settings.max_body;
    let (mut chunks, mut whole) = (request.into_body().into_data_stream(), Vec::new());
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| ApiError::invalid("the body broke off"))?;
        if chunk.len() > limit - whole.len() {
            return Err(ApiError::too_large(limit));
        }
        load.grow(&app.room, (whole.len() + chunk.len()).saturating_sub(FREE.0))?;
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

/// Values in a JSON text, names of fields left out.
fn values(json: &[u8]) -> usize {
    let (mut count, mut is_string, mut is_escaped) = (1, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_string,
            b'"' => is_string = !is_string,
            b',' | b'[' | b'{' if !is_string => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_texts() {
        // the object, 1, the list, 2, 3
        assert_eq!(values(br#"{"a": 1, "b": [2, 3]}"#), 5);
        assert_eq!(values(br#""a,[\",{""#), 1);
        assert_eq!(values(br#"["\\", 1]"#), 3, "a backslash that ends a text");
    }

    #[test]
    fn bodies_share_the_room_and_give_it_back() {
        let room = Room::new(1);
        let (one, two) = (Load::default(), Load::default());
        one.grow(&room, ROOM - UNIT).unwrap();
        one.grow(&room, 1).unwrap();
        two.grow(&room, UNIT).unwrap();
        assert!(two.grow(&room, 2 * UNIT).is_err() && one.grow(&room, ROOM + 1).is_err());
        drop(one.clone());
        assert!(two.grow(&room, 2 * UNIT).is_err(), "a clone is of the same request");
        drop(one);
        two.grow(&room, ROOM).unwrap();
    }
}
