//! JSON Schema's patterns, which match anywhere in a text, as regular expressions for the whole text: anchors are removed,
//! and any text is allowed at the ends without one.

use super::lark::lark_regex;

/// How deep groups that are a whole pattern may nest.
const MAX_DEPTH: u32 = 8;

/// An end of a part of a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// Any text may be before or after the part.
    Open,
    /// An anchor outside of the part ties it to the text's end.
    Anchored,
}

/// A character with a meaning: neither escaped nor in a class.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    Open,
    Close,
    Bar,
    StartAnchor,
    EndAnchor,
}

/// A regular expression, escaped for use between slashes, for the texts in which `pattern` matches. `other` is the
/// regular expression for the text around the match. `None` if the pattern has anchors elsewhere than at its ends, or
/// cannot be parsed.
pub(super) fn full_match(pattern: &str, other: &str) -> Option<String> {
    part(pattern, other, [Edge::Open; 2], 0)
}

/// [`full_match`] of a part of a pattern with these ends.
fn part(pattern: &str, other: &str, edges: [Edge; 2], depth: u32) -> Option<String> {
    let flags = leading_flags(pattern);
    let (flags, pattern) = pattern.split_at(flags);
    let signs = signs(pattern)?;
    let (mut level, mut begin) = (0_u32, 0);
    let mut bounds = Vec::new();
    for &(at, sign) in &signs {
        match sign {
            Sign::Open => level += 1,
            Sign::Close => level = level.checked_sub(1)?,
            Sign::Bar if level == 0 => {
                bounds.push((begin, at));
                begin = at + 1;
            }
            _ => {}
        }
    }
    if level > 0 {
        return None;
    }
    bounds.push((begin, pattern.len()));
    let mut signs = signs.as_slice();
    let mut each = Vec::with_capacity(bounds.len());
    for (begin, end) in bounds {
        let count = signs.iter().take_while(|(at, _)| *at < end).count();
        let (own, rest) = signs.split_at(count);
        // Without the bar.
        signs = rest.get(1..).unwrap_or_default();
        each.push(alternative(pattern.get(begin..end)?, begin, own, other, edges, depth)?);
    }
    Some(match each.as_slice() {
        [one] => format!("{flags}{one}"),
        all => format!("{flags}({})", all.join("|")),
    })
}

/// [`full_match`] of an alternative of a part. Signs are at bytes of the part, in which it starts at `base`.
fn alternative(
    pattern: &str,
    base: usize,
    mut signs: &[(usize, Sign)],
    other: &str,
    [mut front, mut back]: [Edge; 2],
    depth: u32,
) -> Option<String> {
    let (mut begin, mut end) = (0, pattern.len());
    while let [(at, Sign::StartAnchor), rest @ ..] = signs
        && *at == base + begin
    {
        (begin, signs, front) = (begin + 1, rest, Edge::Anchored);
    }
    while let [rest @ .., (at, Sign::EndAnchor)] = signs
        && *at + 1 == base + end
    {
        (end, signs, back) = (end - 1, rest, Edge::Anchored);
    }
    let inner = pattern.get(begin..end)?;
    let repeats = inner.starts_with(['*', '+', '?', '{']);
    if begin > 0 && repeats {
        return None;
    }
    if signs.iter().all(|(_, sign)| !matches!(sign, Sign::StartAnchor | Sign::EndAnchor)) {
        let open = |edge| if edge == Edge::Open { other } else { "" };
        return Some(format!("{}({}){}", open(front), escaped_pattern(inner), open(back)));
    }
    // Anchors within a group that is the whole alternative may be at its ends.
    let group = group_content(inner, base + begin, signs)?;
    if depth == MAX_DEPTH { None } else { part(group, other, [front, back], depth + 1) }
}

/// The content of a group that is the whole pattern; `None` if the pattern is something else.
fn group_content<'p>(pattern: &'p str, base: usize, signs: &[(usize, Sign)]) -> Option<&'p str> {
    let mut level = 0_u32;
    for &(at, sign) in signs {
        match sign {
            Sign::Open => level += 1,
            Sign::Close => level = level.checked_sub(1)?,
            _ => {}
        }
        if level == 0 {
            let is_whole = sign == Sign::Close && at + 1 == base + pattern.len();
            let inner = pattern.strip_prefix('(')?.strip_suffix(')').filter(|_| is_whole)?;
            let Some(named) = inner.strip_prefix('?') else { return Some(inner) };
            let name = |begin: &str| {
                let (name, inner) = named.strip_prefix(begin)?.split_once('>')?;
                name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_').then_some(inner)
            };
            return named.strip_prefix(':').or_else(|| name("<")).or_else(|| name("P<"));
        }
    }
    None
}

/// The length in bytes of flags at the start of a pattern, such as `(?i)`.
fn leading_flags(pattern: &str) -> usize {
    let flags = pattern.strip_prefix("(?").and_then(|rest| rest.split_once(')'));
    let flags = flags.map(|(flags, _)| flags).filter(|flags| is_flags(flags));
    flags.map_or(0, |flags| "(?)".len() + flags.len())
}

fn is_flags(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphabetic() || c == '-')
        // These change the signs or the meaning of anchors.
        && !text.contains(['m', 'x', 'R'])
}

/// The signs of a pattern at their bytes; `None` if their meaning is not known.
fn signs(pattern: &str) -> Option<Vec<(usize, Sign)>> {
    let (mut signs, mut classes, mut at) = (Vec::new(), 0_u32, 0);
    while let Some(first) = pattern[at..].chars().next() {
        let rest = &pattern[at..];
        let mut len = first.len_utf8();
        let sign = match first {
            '\\' => {
                let escaped = rest[1..].chars().next()?;
                // Other anchors, and boundaries.
                if classes == 0 && matches!(escaped, 'A' | 'z' | 'Z' | 'b' | 'B') {
                    return None;
                }
                len += escaped.len_utf8();
                None
            }
            '[' => {
                classes += 1;
                let negated = usize::from(rest[1..].starts_with('^'));
                // A bracket at the start of a class is a member of it.
                len += negated + usize::from(rest[1 + negated..].starts_with(']'));
                None
            }
            ']' if classes > 0 => {
                classes -= 1;
                None
            }
            _ if classes > 0 => None,
            '(' => {
                if let Some(special) = rest.strip_prefix("(?") {
                    let flags = special.split([')', ':']).next().unwrap_or_default();
                    let is_named = special.starts_with(['<', 'P'])
                        && !special.starts_with("<=")
                        && !special.starts_with("<!");
                    // Flags for the rest of a group count beyond a bar.
                    if !(special.starts_with(':')
                        || is_named
                        || is_flags(flags) && special[flags.len()..].starts_with(':'))
                    {
                        return None;
                    }
                }
                Some(Sign::Open)
            }
            ')' => Some(Sign::Close),
            '|' => Some(Sign::Bar),
            '^' => Some(Sign::StartAnchor),
            '$' => Some(Sign::EndAnchor),
            _ => None,
        };
        signs.extend(sign.map(|sign| (at, sign)));
        at += len;
    }
    (classes == 0).then_some(signs)
}

/// A pattern for use between slashes, with the classes of digits and word characters as JSON Schema means them: ASCII
/// only.
fn escaped_pattern(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut escaped = false;
    for c in lark_regex(pattern).chars() {
        let class = match c {
            'd' => "[0-9]",
            'D' => "[^0-9]",
            'w' => "[0-9a-zA-Z_]",
            'W' => "[^0-9a-zA-Z_]",
            _ => "",
        };
        if escaped && !class.is_empty() {
            out.pop();
            out.push_str(class);
        } else {
            out.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_full_matches() {
        for (pattern, expected) in [
            ("a", Some("~(a)~")),
            ("", Some("~()~")),
            ("^a$", Some("(a)")),
            ("^^a$$", Some("(a)")),
            ("^", Some("()~")),
            ("$", Some("~()")),
            ("^a|b$", Some("((a)~|~(b))")),
            ("^a$|^b$|c", Some("((a)|(b)|~(c)~)")),
            (r"^a\$", Some(r"(a\$)~")),
            (r"^a\\$", Some(r"(a\\)")),
            (r"^\^a\|b$", Some(r"(\^a\|b)")),
            ("^[a|b$^]$", Some("([a|b$^])")),
            ("^[]|]$|[^]|]", Some("(([]|])|~([^]|])~)")),
            ("^[a&&[^|]]$", Some("([a&&[^|]])")),
            ("^(a|b)$", Some("((a|b))")),
            ("^(?:^a$)$", Some("(a)")),
            ("^(?:^a|b)$", Some("((a)|(b))")),
            ("(^a|b$)", Some("((a)~|~(b))")),
            ("(?P<n>^a)|(?<m>b$)", Some("((a)~|~(b))")),
            ("(?i)^a|b$", Some("(?i)((a)~|~(b))")),
            ("(?:(?i)^a)|b", None),
            ("^é/\n$", Some("(é\\/\\n)")),
            (r"^\d[\w-]\\d$", Some(r"([0-9][[0-9a-zA-Z_]-]\\d)")),
            // Anchors elsewhere.
            ("a^b", None),
            ("a$b", None),
            ("$^", None),
            ("^*a", None),
            ("x(^a)", None),
            ("(^a)*", None),
            ("(^a)(b$)", None),
            (r"\Aa", None),
            (r"a\b", None),
            ("(?m)^a", None),
            ("(?i:^a)", None),
            ("(?=a)b", None),
            ("a(?i)b|c", None),
            // Invalid patterns.
            ("(a", None),
            ("a)", None),
            ("[a", None),
            ("a\\", None),
        ] {
            assert_eq!(full_match(pattern, "~").as_deref(), expected, "{pattern}");
        }
        let deep = |depth: usize| format!("{}^a{}", "(".repeat(depth), ")".repeat(depth));
        assert!(full_match(&deep(8), "~").is_some() && full_match(&deep(100_000), "~").is_none());
    }
}
