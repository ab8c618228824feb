//! Admission of a request: its priority, principal, cache salt and timeout.

use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use forebay_engine::{AdmissionParams, Principal, Priority, Salt};
use forebay_protocol::generation::CommonFields;

use crate::error::{ApiError, shown};

/// Header with the seconds that a request may take before it fails with 504.
const TIMEOUT: &str = "x-request-timeout";
const MAX_TIMEOUT: f64 = 86_400.0;
const MAX_SALT_BYTES: usize = 256;
/// OpenAI's service tiers and the priority of each.
const TIERS: [(&str, Priority); 6] = [
    ("auto", Priority::Normal),
    ("default", Priority::Normal),
    ("scale", Priority::Normal),
    ("flex", Priority::Background),
    ("priority", Priority::Interactive),
    ("fast", Priority::Interactive),
];

/// Who sent a request, and its timeout: what its headers tell of it, as plain values.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// By the API key; all clients without one are one principal.
    pub principal: Principal,
    /// How long the request may take.
    pub timeout: Option<Duration>,
}

impl Caller {
    /// Reads a request's headers.
    ///
    /// # Errors
    /// 400 for an invalid timeout.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let key = headers.get(AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
        Ok(Self { principal: Principal(hash(key)), timeout: timeout(headers)? })
    }

    /// The engine's admission parameters of a request with these fields.
    ///
    /// # Errors
    /// 400 for invalid or contradicting values.
    pub(crate) fn admission(self, fields: &CommonFields<'_>) -> Result<AdmissionParams, ApiError> {
        let salt = fields.cache_salt.unwrap_or_default();
        if salt.len() > MAX_SALT_BYTES {
            let message = format!("'cache_salt' must have at most {MAX_SALT_BYTES} bytes.");
            return Err(ApiError::invalid("cache_salt", "string_above_max_length", message));
        }
        let Self { principal, timeout } = self;
        let salt = Salt(hash(salt.as_bytes()));
        Ok(AdmissionParams { salt, principal, priority: priority(fields)?, timeout })
    }
}

/// The tier that an answer of this priority reports.
pub(crate) fn tier(priority: Priority) -> &'static str {
    match priority {
        Priority::Interactive => "priority",
        Priority::Normal => "default",
        Priority::Background => "flex",
    }
}

fn priority(fields: &CommonFields<'_>) -> Result<Priority, ApiError> {
    let by_tier = match fields.service_tier {
        None => None,
        Some(tier) => match TIERS.iter().find(|(name, _)| *name == tier) {
            Some((_, priority)) => Some(*priority),
            None => {
                let names = TIERS.map(|(name, _)| name);
                let message =
                    format!("Invalid 'service_tier': '{}' is not one of {names:?}.", shown(tier));
                return Err(ApiError::invalid("service_tier", "invalid_value", message));
            }
        },
    };
    let by_priority = fields.priority.map(|priority| match priority {
        ..0 => Priority::Interactive,
        0 => Priority::Normal,
        1.. => Priority::Background,
    });
    match (by_tier, by_priority) {
        (Some(tier), Some(priority)) if tier != priority => {
            let message = "'priority' and 'service_tier' contradict each other. Set only one.";
            Err(ApiError::invalid("priority", "invalid_value", message))
        }
        (tier, priority) => Ok(priority.or(tier).unwrap_or_default()),
    }
}

/// The request's timeout; `None` without the header.
///
/// # Errors
/// 400 for what is not a number of seconds.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
    match seconds.filter(|s| *s > 0.0 && *s <= MAX_TIMEOUT) {
        Some(seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
        None => Err(ApiError::invalid(
            TIMEOUT,
            "invalid_value",
            format!(
                "The header '{TIMEOUT}' must be a number of seconds above 0 and up to {MAX_TIMEOUT}."
            ),
        )),
    }
}

/// A hash with a key of this process, so that a client cannot choose a value that collides with another's.
fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::OnceLock;
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    KEYS.get_or_init(RandomState::new).hash_one(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_json(
        headers: &[(&'static str, &'static str)],
        fields: &str,
    ) -> Result<AdmissionParams, String> {
        let text = format!(r#"{{"model":"m","messages":[]{fields}}}"#);
        let request: forebay_protocol::chat::ChatCompletionRequest =
            serde_json::from_str(&text).unwrap();
        let headers = headers.iter().map(|&(name, value)| {
            (name.parse().unwrap(), axum::http::HeaderValue::from_static(value))
        });
        Caller::of(&headers.collect())
            .and_then(|caller| caller.admission(&request.common()))
            .map_err(|e| e.envelope().error.param.unwrap_or_default())
    }

    #[test]
    fn priorities_and_tiers_are_classes() {
        let priority = |fields| read_json(&[], fields).map(|o| o.priority);
        assert_eq!(priority(""), Ok(Priority::Normal));
        assert_eq!(priority(r#","priority":-3"#), Ok(Priority::Interactive));
        assert_eq!(priority(r#","priority":1"#), Ok(Priority::Background));
        assert_eq!(priority(r#","service_tier":"flex""#), Ok(Priority::Background));
        assert_eq!(priority(r#","service_tier":"flex","priority":1"#), Ok(Priority::Background));
        assert_eq!(priority(r#","service_tier":"flex","priority":0"#), Err("priority".into()));
        assert_eq!(priority(r#","service_tier":"gold""#), Err("service_tier".into()));
    }

    #[test]
    fn keys_and_salts_tell_apart() {
        let of = |key, fields| read_json(&[("authorization", key)], fields).unwrap();
        let (a, b) = (of("Bearer a", ""), of("Bearer b", r#","cache_salt":"s""#));
        assert_ne!(a.principal, b.principal);
        assert_ne!(a.salt, b.salt);
        assert_eq!(a, of("Bearer a", ""));
        let long = format!(r#","cache_salt":"{}""#, "x".repeat(257));
        assert_eq!(read_json(&[], &long), Err("cache_salt".into()));
    }

    #[test]
    fn a_timeout_is_a_number_of_seconds() {
        let timeout = |value| read_json(&[(TIMEOUT, value)], "").map(|o| o.timeout);
        assert_eq!(timeout("1.5"), Ok(Some(Duration::from_millis(1500))));
        for bad in ["0", "-1", "soon", "NaN", "inf", "1e9"] {
            assert_eq!(timeout(bad), Err(TIMEOUT.into()), "{bad}");
        }
    }
}
