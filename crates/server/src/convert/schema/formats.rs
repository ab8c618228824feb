//! Formats of texts: which are enforced, by regular expressions that match no endless text.

/// Formats that the grammar compiler enforces as they are, inside JSON.
const ENFORCED: [&str; 3] = ["ipv6", "uri", "unknown"];

/// `time`. A fraction of a second has at most nine digits (nanoseconds), because models repeat zeros without
/// end. No leap seconds: which minutes have one depends on the zone.
const TIME: &str = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
const DATE: &str = r"[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-9]))";
/// ISO 8601 as RFC 3339 has it in its appendix, with numbers of at most nine digits.
const DURATION: &str = r"P(?:(?:N*Y(?:N*M(?:N*D)?)?|N*M(?:N*D)?|N*D)(?:T(?:N*H(?:N*M(?:N*S)?)?|N*M(?:N*S)?|N*S))?|T(?:N*H(?:N*M(?:N*S)?)?|N*M(?:N*S)?|N*S)|N*W)";

const UUID: &str = "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}";
const OCTET: &str = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
/// A label of a host name, which has at most ten.
const LABEL: &str = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";
/// An atom before an email's `@`, by RFC 5321, 4.1.2, without quoted strings.
const ATOM: &str = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,64}";

/// How a format is enforced.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EnforcedFormat {
    /// The grammar compiler knows it.
    Known,
    /// By this regular expression.
    Pattern(String),
    /// Not at all.
    Unknown,
}

/// How the format of this name is enforced.
pub(super) fn enforced_format(name: &str) -> EnforcedFormat {
    let whole = |regex: &str| EnforcedFormat::Pattern(format!("^(?:{regex})$"));
    match name {
        "date-time" => whole(&format!("{DATE}[tT]{TIME}")),
        "time" => whole(TIME),
        "duration" => whole(&DURATION.replace("N*", "[0-9]{1,9}")),
        "date" => whole(DATE),
        "uuid" => whole(UUID),
        "ipv4" => whole(&format!(r"(?:{OCTET}\.){{3}}{OCTET}")),
        "hostname" => whole(&format!(r"{LABEL}(?:\.{LABEL}){{0,9}}")),
        "email" => whole(&format!(r"{ATOM}(?:\.{ATOM}){{0,9}}@{LABEL}(?:\.{LABEL}){{0,9}}")),
        name if ENFORCED.contains(&name) => EnforcedFormat::Known,
        _ => EnforcedFormat::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_bounded() {
        for name in ["date-time", "time", "duration", "hostname", "email"] {
            let EnforcedFormat::Pattern(pattern) = enforced_format(name) else { panic!("{name}") };
            let repeated = ["]*", ")*", "]+", ")+"].iter().any(|sign| pattern.contains(sign));
            assert!(!repeated, "{pattern}");
        }
        assert_eq!(enforced_format("ipv6"), EnforcedFormat::Known);
        assert_eq!(enforced_format("made-up"), EnforcedFormat::Unknown);
    }
}
