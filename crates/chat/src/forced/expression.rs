//! Expressions that a schema wants to find somewhere in a text, as expressions for the whole of it.

use super::between_slashes;

/// How deep groups that an expression consists of are looked into.
const MAX_DEPTH: u32 = 8;

/// What stands at an end of a part of an expression.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// The text's end, or anything before it.
    Open,
    /// The text's end, by an anchor outside of the part.
    Anchored,
}

/// A sign that is neither escaped nor in a class, at a byte of an expression.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    Open,
    Close,
    Bar,
    Begin,
    End,
}

/// The expression of all of a text in which a pattern is found, as it stands between slashes, with `other`
/// around what no anchor ties to an end; `None` if anchors stand elsewhere, or it cannot be read.
pub(super) fn whole(pattern: &str, other: &str) -> Option<String> {
    part(pattern, other, [Edge::Open; 2], 0)
}

/// The same of a part that reaches from one end of a pattern to the other.
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
        let (own, behind) = signs.split_at(count);
        // Without the bar.
        signs = behind.get(1..).unwrap_or_default();
        each.push(alternative(pattern.get(begin..end)?, begin, own, other, edges, depth)?);
    }
    Some(match each.as_slice() {
        [one] => format!("{flags}{one}"),
        all => format!("{flags}({})", all.join("|")),
    })
}

/// The same of one of its alternatives, which begins at byte `base` of what the signs count.
fn alternative(
    pattern: &str,
    base: usize,
    mut signs: &[(usize, Sign)],
    other: &str,
    [mut front, mut back]: [Edge; 2],
    depth: u32,
) -> Option<String> {
    let (mut begin, mut end) = (0, pattern.len());
    while let [(at, Sign::Begin), rest @ ..] = signs
        && *at == base + begin
    {
        (begin, signs, front) = (begin + 1, rest, Edge::Anchored);
    }
    while let [rest @ .., (at, Sign::End)] = signs
        && *at + 1 == base + end
    {
        (end, signs, back) = (end - 1, rest, Edge::Anchored);
    }
    let inner = pattern.get(begin..end)?;
    let repeats = inner.starts_with(['*', '+', '?', '{']);
    if begin > 0 && repeats {
        return None;
    }
    if signs.iter().all(|(_, sign)| !matches!(sign, Sign::Begin | Sign::End)) {
        let open = |edge| if edge == Edge::Open { other } else { "" };
        return Some(format!("{}({}){}", open(front), spelled(inner), open(back)));
    }
    // Anchors within a group that is all of it stand at its ends.
    let group = group(inner, base + begin, signs)?;
    if depth == MAX_DEPTH { None } else { part(group, other, [front, back], depth + 1) }
}

/// What an expression holds that is one group.
fn group<'p>(pattern: &'p str, base: usize, signs: &[(usize, Sign)]) -> Option<&'p str> {
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

/// The length of the flags that an expression begins with, such as `(?i)`.
fn leading_flags(pattern: &str) -> usize {
    let flags = pattern.strip_prefix("(?").and_then(|rest| rest.split_once(')'));
    let flags = flags.map(|(flags, _)| flags).filter(|flags| is_flags(flags));
    flags.map_or(0, |flags| "(?)".len() + flags.len())
}

fn is_flags(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphabetic() || c == '-')
        // With these, signs are others, or anchors mean lines.
        && !text.contains(['m', 'x', 'R'])
}

/// The signs of an expression; `None` if what they mean is not known.
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
                // A bracket that a class begins with belongs to it.
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
                    // Flags for what follows count beyond a bar.
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
            '^' => Some(Sign::Begin),
            '$' => Some(Sign::End),
            _ => None,
        };
        signs.extend(sign.map(|sign| (at, sign)));
        at += len;
    }
    (classes == 0).then_some(signs)
}

/// An expression between slashes, with digits and word characters as JSON Schema means them: ASCII alone.
fn spelled(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut escaped = false;
    for c in between_slashes(pattern).chars() {
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
    fn what_is_found_in_a_text_is_said_of_all_of_it() {
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
            // Anchors that stand elsewhere.
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
            // What is no expression.
            ("(a", None),
            ("a)", None),
            ("[a", None),
            ("a\\", None),
        ] {
            assert_eq!(whole(pattern, "~").as_deref(), expected, "{pattern}");
        }
        let deep = |depth: usize| format!("{}^a{}", "(".repeat(depth), ")".repeat(depth));
        assert!(whole(&deep(8), "~").is_some() && whole(&deep(100_000), "~").is_none());
    }
}
