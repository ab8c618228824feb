//! What a request may cost, decided from bytes and counts before work begins.
//!
//! A body is measured while it arrives: its bytes, and how many values its JSON has, since a value
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
const SMALL: usize = 256 << 10;
/// The longest that a request waits for memory.
const PATIENCE: Duration = Duration::from_secs(10);
/// A JSON text up to this size is parsed, rendered and tokenised in well under a millisecond.
const TINY: Cost = Cost { bytes: 4 << 10, values: 256 };
/// Up to this size, in some ten milliseconds.
const SHORT: Cost = Cost { bytes: 256 << 10, values: 16 << 10 };

/// The size of a JSON text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Its length.
    pub bytes: usize,
    /// Values and keys in it, or a few more.
    pub values: usize,
}

/// Measures a JSON text piece by piece. It need not be valid.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    cost: Cost,
    in_string: bool,
    escaped: bool,
}

/// The memory that requests may take together.
#[derive(Debug)]
pub(crate) struct Budget {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// The most that one request may take, in bytes.
    most: usize,
}

/// Memory that is reserved for a request. Dropping it returns the memory to the budget.
#[derive(Debug, Default)]
pub(crate) struct Reservation {
    permits: Vec<OwnedSemaphorePermit>,
}

impl Cost {
    /// The sizes of two texts, added up.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            values: self.values.saturating_add(other.values),
        }
    }

    /// An upper estimate of the memory for its tree and all that is made of it, in bytes.
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

impl Meter {
    /// Measures the next piece.
    pub(crate) fn feed(&mut self, piece: &[u8]) {
        self.cost.bytes += piece.len();
        for &byte in piece {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = self.in_string,
                b'"' => self.in_string = !self.in_string,
                b',' | b':' | b'[' | b'{' if !self.in_string => self.cost.values += 1,
                _ => {}
            }
        }
    }

    /// What was measured so far.
    pub(crate) fn cost(&self) -> Cost {
        self.cost
    }
}

/// The size of a whole JSON text.
pub(crate) fn measure(text: &str) -> Cost {
    let mut meter = Meter::default();
    meter.feed(text.as_bytes());
    meter.cost()
}

impl Budget {
    /// A quarter of the memory is for small requests alone.
    pub(crate) fn new(settings: &LimitSettings) -> Self {
        let units = (settings.memory_mib << 20) / UNIT;
        let most = (settings.request_memory_mib << 20).min(units / 4 * 3 * UNIT);
        let semaphore = |units| Arc::new(Semaphore::new(units));
        Self { small: semaphore(units / 4), large: semaphore(units / 4 * 3), most }
    }

    /// Reserves the memory for `cost`. If there is too little, waits for up to [`PATIENCE`].
    ///
    /// # Errors
    /// 413 for more than one request may have, 429 if there is too little all that time.
    pub(crate) async fn reserve(&self, cost: Cost) -> Result<Reservation, ApiError> {
        let memory = cost.memory();
        if memory > self.most {
            return Err(ApiError::too_complex(memory >> 20, self.most >> 20));
        }
        let units = u32::try_from(memory.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let from = if memory <= SMALL { &self.small } else { &self.large };
        let wait = Arc::clone(from).acquire_many_owned(units);
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(Ok(permit)) => Ok(Reservation { permits: vec![permit] }),
            _ => Err(ApiError::busy("the requests that are being read take all memory there is")),
        }
    }

    /// Reserves `bytes` of memory of the large requests' part, without waiting.
    ///
    /// # Errors
    /// 429 if there is too little.
    pub(crate) fn try_reserve(&self, bytes: usize) -> Result<Reservation, ApiError> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.large).try_acquire_many_owned(units);
        let permit =
            permit.map_err(|_| ApiError::busy("the requests that arrive are too large"))?;
        Ok(Reservation { permits: vec![permit] })
    }
}

impl Reservation {
    /// Adds what `other` has reserved.
    pub(crate) fn merge(&mut self, other: Self) {
        self.permits.extend(other.permits);
    }

    /// Returns all but `1 / parts` of it, rounded up; with `usize::MAX` next to nothing is kept.
    pub(crate) fn shrink(&mut self, parts: usize) {
        for permit in &mut self.permits {
            let keep = permit.num_permits().div_ceil(parts.max(1));
            drop(permit.split(permit.num_permits() - keep));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(bytes: usize) -> Cost {
        Cost { bytes, values: 0 }
    }

    fn budget(memory_mib: usize, request_memory_mib: usize) -> Budget {
        Budget::new(&LimitSettings { memory_mib, request_memory_mib, ..LimitSettings::default() })
    }

    #[test]
    fn values_are_counted_outside_strings() {
        let cost = measure(r#"{"a,b":[1,"x\",[\\",{}]}"#);
        assert_eq!(cost, Cost { bytes: 24, values: 6 });
        assert_eq!(measure(r#""\\",[]"#).values, 2);
    }

    #[test]
    fn many_small_values_are_more_than_their_text() {
        let nested = format!("[{}]", vec!["[]"; 100_000].join(","));
        assert!(measure(&nested).memory() > 20_000_000, "{}", measure(&nested).memory());
        assert_eq!(text(100).effort(), Effort::Tiny);
        assert_eq!(measure(&nested).effort(), Effort::Long);
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
        again.shrink(4);
        drop(budget.reserve(large).await.unwrap());
        let above = text((4 << 20) / TEXT_FACTOR + 1);
        assert_eq!(budget.reserve(above).await.unwrap_err().code(), Some("request_too_complex"));
        assert!(budget.try_reserve(16 << 20).is_err());
    }

    proptest! {
        #[test]
        fn pieces_measure_as_the_whole(text in "[\\[\\]{}:,\"\\\\ a1é]{0,40}", at in 0..40usize) {
            let bytes = text.as_bytes();
            let (left, right) = bytes.split_at(at.min(bytes.len()));
            let mut meter = Meter::default();
            meter.feed(left);
            meter.feed(right);
            prop_assert_eq!(meter.cost(), measure(&text));
        }
    }
}
