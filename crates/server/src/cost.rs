//! The memory and time that a request may cost, estimated from bytes and counts before work begins.
//!
//! A body is measured before it is parsed: its bytes, and how many values its JSON has, since a value
//! of two bytes takes a hundred in memory. The estimate is reserved from one memory budget for all
//! requests that are being read, prepared or answered, and returned as soon as the memory is free.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::LimitSettings;
use crate::error::ApiError;
use crate::pool::Effort;

/// Bytes of memory for each value of a JSON tree: the value, its key, and the container's spare room.
const VALUE_BYTES: usize = 128;
/// Bytes of memory for each byte of text: the body, the parsed string, the prompt and its tokens.
const TEXT_FACTOR: usize = 6;
/// Bytes that a permit of the budget stands for.
const UNIT: usize = 1024;
/// Requests whose estimate is up to this many bytes have a part of the budget to themselves.
const SMALL_ESTIMATE: usize = 256 << 10;
/// Bytes of each body whose memory is apart from that of longer bodies' rest.
const BODY_HEAD: usize = 1 << 20;
/// The longest that a request waits for memory.
const MEMORY_WAIT: Duration = Duration::from_secs(30);
/// A JSON text up to this size is parsed, rendered and tokenised in well under a millisecond.
const TINY: JsonSize = JsonSize { bytes: 4 << 10, values: 256 };
/// Up to this size, in some ten milliseconds.
const SHORT: JsonSize = JsonSize { bytes: 256 << 10, values: 16 << 10 };

/// The size of a JSON text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct JsonSize {
    /// Its length.
    pub bytes: usize,
    /// Values and keys in it, or a few more.
    pub values: usize,
}

/// The memory of all requests together, in separate parts.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    /// For requests up to [`SMALL_ESTIMATE`].
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// For bodies that arrive, up to [`BODY_HEAD`] of each.
    arriving: Arc<Semaphore>,
    /// For the rest of these bodies.
    bulk: Arc<Semaphore>,
    /// For whole answers until they are read.
    answers: Arc<Semaphore>,
    all_answers: usize,
    /// The most memory of one request, in bytes.
    max_request: usize,
}

/// Memory that is reserved for a request. Dropping it returns the memory to the budget.
#[derive(Debug, Default)]
pub(crate) struct Reservation {
    permits: Vec<OwnedSemaphorePermit>,
}

impl JsonSize {
    /// The sizes of two texts, added up.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            values: self.values.saturating_add(other.values),
        }
    }

    /// An upper estimate of the memory for its tree, the prompt and its tokens, in bytes.
    pub(crate) fn memory(self) -> usize {
        let text = self.bytes.saturating_mul(TEXT_FACTOR);
        text.saturating_add(self.values.saturating_mul(VALUE_BYTES))
    }

    /// How long it takes to parse, render and tokenise.
    pub(crate) fn effort(self) -> Effort {
        let within = |limit: Self| self.bytes <= limit.bytes && self.values <= limit.values;
        match () {
            () if within(TINY) => Effort::Tiny,
            () if within(SHORT) => Effort::Short,
            () => Effort::Long,
        }
    }
}

/// Measures a JSON text. It need not be valid.
///
/// # Errors
/// 400 where a member has a name of [`PRIVATE`].
pub(crate) fn measure(text: &[u8]) -> Result<JsonSize, ApiError> {
    let (mut values, mut in_string, mut escaped) = (0, false, false);
    // Where the quotes of the last string are.
    let mut quotes = (0, 0);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => {
                quotes = if in_string { (quotes.0, at) } else { (at, at) };
                in_string = !in_string;
            }
            b':' if !in_string && is_private(&text[quotes.0..=quotes.1]) => {
                return Err(ApiError::not_json("a member has a name that is reserved"));
            }
            b',' | b':' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    Ok(JsonSize { bytes: text.len(), values })
}

/// The prefix of member names that serde_json uses internally: an object with such a member is read as the JSON
/// that its text holds, which was not measured. See
/// <https://github.com/serde-rs/json/blob/master/src/raw.rs>.
const PRIVATE: &str = "$serde_json::private::";

/// Whether a string in its quotes is such a name, escaped or not.
fn is_private(quoted: &[u8]) -> bool {
    // Each of its characters takes six bytes at most.
    let may = matches!(quoted.get(1), Some(b'$' | b'\\')) && quoted.len() < 16 * PRIVATE.len();
    may && serde_json::from_slice::<String>(quoted).is_ok_and(|name| name.starts_with(PRIVATE))
}

impl MemoryBudget {
    /// Half of the memory is for large requests, an eighth each for small ones, for the beginnings of
    /// bodies that arrive, for the rest of them, and for whole answers.
    pub(crate) fn new(settings: &LimitSettings) -> Self {
        let units = (settings.memory_mib << 20) / UNIT;
        let part = |eighths: usize| Arc::new(Semaphore::new(units / 8 * eighths));
        Self {
            max_request: (settings.request_memory_mib << 20).min(units / 8 * 4 * UNIT),
            large: part(4),
            small: part(1),
            arriving: part(1),
            bulk: part(1),
            answers: part(1),
            all_answers: units / 8 * UNIT,
        }
    }

    /// Reserves the memory for `cost`. If there is too little, waits for up to [`MEMORY_WAIT`].
    ///
    /// # Errors
    /// 413 for more than one request may use, 429 if there is too little all that time.
    pub(crate) async fn reserve(&self, cost: JsonSize) -> Result<Reservation, ApiError> {
        let memory = cost.memory();
        if memory > self.max_request {
            return Err(ApiError::too_complex(memory >> 20, self.max_request >> 20));
        }
        let from = if memory <= SMALL_ESTIMATE { &self.small } else { &self.large };
        acquire(from, memory).await
    }

    /// Reserves memory for a whole answer of `bytes`, waiting for up to [`MEMORY_WAIT`]. A larger one than the
    /// answers' part uses all of it.
    ///
    /// # Errors
    /// 429 when the memory stays in use.
    pub(crate) async fn answer(&self, bytes: usize) -> Result<Reservation, ApiError> {
        acquire(&self.answers, bytes.min(self.all_answers)).await
    }

    /// Reserves memory for the bytes `from..to` of a body, waiting for up to [`MEMORY_WAIT`].
    ///
    /// # Errors
    /// 429 when the memory stays in use.
    pub(crate) async fn receive(&self, from: usize, to: usize) -> Result<Reservation, ApiError> {
        let border = BODY_HEAD.clamp(from, to);
        let mut reservation = acquire(&self.arriving, border - from).await?;
        reservation.merge(acquire(&self.bulk, to - border).await?);
        Ok(reservation)
    }
}

async fn acquire(part: &Arc<Semaphore>, bytes: usize) -> Result<Reservation, ApiError> {
    if bytes == 0 {
        return Ok(Reservation::default());
    }
    let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
    let wait = Arc::clone(part).acquire_many_owned(units);
    match tokio::time::timeout(MEMORY_WAIT, wait).await {
        Ok(Ok(permit)) => Ok(Reservation { permits: vec![permit] }),
        _ => Err(ApiError::busy("the requests that are being read use all memory for requests")),
    }
}

impl Reservation {
    /// Whether nothing is reserved.
    pub(crate) fn is_empty(&self) -> bool {
        self.permits.iter().all(|permit| permit.num_permits() == 0)
    }

    /// Adds the memory of `other`.
    pub(crate) fn merge(&mut self, other: Self) {
        self.permits.extend(other.permits);
    }

    /// Returns the memory beyond `bytes`.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let mut left = bytes.div_ceil(UNIT);
        for permit in &mut self.permits {
            let keep = permit.num_permits().min(left);
            left -= keep;
            drop(permit.split(permit.num_permits() - keep));
        }
    }

    /// Returns half of it.
    pub(crate) fn halve(&mut self) {
        for permit in &mut self.permits {
            drop(permit.split(permit.num_permits() / 2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: usize) -> JsonSize {
        JsonSize { bytes, values: 0 }
    }

    fn budget(memory_mib: usize, request_memory_mib: usize) -> MemoryBudget {
        MemoryBudget::new(&LimitSettings {
            memory_mib,
            request_memory_mib,
            ..LimitSettings::default()
        })
    }

    #[test]
    fn names_that_mean_something_to_serde_json_are_no_members() {
        for name in ["$serde_json::private::RawValue", "\\u0024serde_json::private\\u003a:Number"] {
            let text = format!(r#"{{"tools": [{{"{name}" : "[1,2,3]"}}]}}"#);
            assert!(measure(text.as_bytes()).is_err(), "{name}");
            let said = format!(r#"{{"content": "{name}", "$x": "$serde_json"}}"#);
            assert!(measure(said.as_bytes()).is_ok(), "a text may say so");
        }
        // That is what they do.
        let text = r#"{"$serde_json::private::RawValue": "[1,2,3]"}"#;
        assert!(serde_json::from_str::<serde_json::Value>(text).unwrap().is_array());
    }

    #[test]
    fn values_are_counted_outside_strings() {
        let cost = measure(br#"{"a,b":[1,"x\",[\\",{}]}"#).unwrap();
        assert_eq!(cost, JsonSize { bytes: 24, values: 6 });
        assert_eq!(measure(br#""\\",[]"#).unwrap().values, 2);
    }

    #[test]
    fn many_small_values_are_more_than_their_text() {
        let nested = format!("[{}]", vec!["[]"; 100_000].join(","));
        assert!(
            measure(nested.as_bytes()).unwrap().memory() > 20_000_000,
            "{}",
            measure(nested.as_bytes()).unwrap().memory()
        );
        assert_eq!(text(100).effort(), Effort::Tiny);
        assert_eq!(measure(nested.as_bytes()).unwrap().effort(), Effort::Long);
    }

    #[tokio::test(start_paused = true)]
    async fn large_requests_wait_and_small_ones_do_not_wait_for_them() {
        let budget = budget(8, 4);
        let large = text((4 << 20) / TEXT_FACTOR);
        let first = budget.reserve(large).await.unwrap();
        assert_eq!(budget.reserve(large).await.unwrap_err().code(), Some("server_busy"));
        budget.reserve(text(1000)).await.unwrap();
        drop(first);
        let mut again = budget.reserve(large).await.unwrap();
        again.halve();
        let half = JsonSize { bytes: large.bytes / 2, values: 0 };
        drop(budget.reserve(half).await.unwrap());
        let above = text((4 << 20) / TEXT_FACTOR + 1);
        assert_eq!(budget.reserve(above).await.unwrap_err().code(), Some("request_too_complex"));
        // Bodies that arrive have parts of their own.
        let all = budget.large.available_permits();
        let _large = budget.large.acquire_many(u32::try_from(all).unwrap()).await.unwrap();
        let bulk = budget.receive(BODY_HEAD, 2 * BODY_HEAD).await.unwrap();
        assert!(
            budget.receive(0, BODY_HEAD + 1).await.is_err(),
            "its beginning has room, its rest has not"
        );
        drop(budget.receive(0, BODY_HEAD).await.unwrap());
        drop(bulk);
        drop(budget.receive(0, BODY_HEAD + 1).await.unwrap());
    }

    /// What a limit is for must not meet what agents send: 64 tools of 16 kB with 200 values each.
    #[test]
    fn a_megabyte_of_tools_is_far_from_the_limit() {
        let parameter =
            r#"{"type":"string","description":"some forty characters of explanation..."}"#;
        let properties = vec![format!(r#""p":{parameter}"#); 200].join(",");
        let tool = format!(r#"{{"name":"f","parameters":{{"properties":{{{properties}}}}}}}"#);
        let cost = measure(format!("[{}]", vec![tool; 64].join(",")).as_bytes()).unwrap();
        let limits = LimitSettings::default();
        assert!(
            cost.bytes > 1_000_000 && cost.memory() < limits.request_memory_mib << 18,
            "{cost:?}"
        );
    }
}
