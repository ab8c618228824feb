//! Formats of texts: which are enforced, and how those are spelled that would have no end.

/// Formats that the grammar compiler enforces as they are.
const ENFORCED: [&str; 8] = ["date", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown"];

/// What `time` allows: a fraction of a second has at most nine digits (nanoseconds), because models
/// run away in zeros.
const TIME: &str = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]{1,9})?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
const DATE: &str = r"[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-9]))";
/// ISO 8601 as RFC 3339 has it in its appendix, with numbers of at most nine digits.
const DURATION: &str = r"P(?:(?:N*Y(?:N*M(?:N*D)?)?|N*M(?:N*D)?|N*D)(?:T(?:N*H(?:N*M(?:N*S)?)?|N*M(?:N*S)?|N*S))?|T(?:N*H(?:N*M(?:N*S)?)?|N*M(?:N*S)?|N*S)|N*W)";

/// How a format is enforced.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// The grammar compiler knows it.
    Known,
    /// By this regular expression.
    Pattern(String),
    /// Not at all.
    Unknown,
}

/// How the format of this name is enforced.
pub(super) fn format(name: &str) -> Format {
    let whole = |regex: &str| Format::Pattern(format!("^(?:{regex})$"));
    match name {
        "date-time" => whole(&format!("{DATE}[tT]{TIME}")),
        "time" => whole(TIME),
        "duration" => whole(&DURATION.replace("N*", "[0-9]{1,9}")),
        name if ENFORCED.contains(&name) => Format::Known,
        _ => Format::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_bounded() {
        for name in ["date-time", "time", "duration"] {
            let Format::Pattern(pattern) = format(name) else { panic!("{name}") };
            assert!(!pattern.contains(['*']) && !pattern.contains("]+"), "{pattern}");
        }
        assert_eq!(format("uuid"), Format::Known);
        assert_eq!(format("made-up"), Format::Unknown);
    }
}
