//! Regular expressions without what the grammar compiler does not enforce.

/// The same expression without look-around, word boundaries and references to groups, which only
/// ever narrow what an expression matches: a superset. One pass, without recursion.
pub(super) fn without_assertions(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    // How many groups are open inside of a look-around, that included.
    let mut inside = 0_u32;
    let mut in_class = false;
    while let Some(first) = rest.chars().next() {
        let (take, put) = next(rest, first, in_class, inside == 0);
        match (first, in_class) {
            ('[', false) => in_class = true,
            (']', true) => in_class = false,
            ('(', false) if inside > 0 || take > 1 => inside += 1,
            (')', false) if inside > 0 => {
                inside -= 1;
                rest = &rest[take..];
                continue;
            }
            _ => {}
        }
        if inside == 0 || take > 1 && first == '(' && inside == 1 {
            out.push_str(put);
        }
        rest = &rest[take..];
        // A bracket that a class begins with belongs to it.
        if in_class && first == '[' && (rest.starts_with(']') || rest.starts_with("^]")) {
            let end = rest.find(']').map_or(0, |at| at + 1);
            if inside == 0 {
                out.push_str(&rest[..end]);
            }
            rest = &rest[end..];
        }
    }
    out
}

/// How many bytes of an expression belong together, and what stands for them.
fn next(rest: &str, first: char, in_class: bool, outside: bool) -> (usize, &str) {
    const AROUND: [&str; 4] = ["(?=", "(?!", "(?<=", "(?<!"];
    if first == '\\' {
        let len = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
        return match rest.as_bytes().get(1) {
            // A boundary is an assertion.
            Some(b'b' | b'B') if !in_class => (len, "(?:)"),
            // The group that a reference repeats, by all the digits of its number, may be any text.
            Some(b'1'..=b'9') if !in_class => {
                let digits = rest.bytes().skip(1).take_while(u8::is_ascii_digit).count();
                (1 + digits, "(?:[\\s\\S]*)")
            }
            _ => (len, &rest[..len]),
        };
    }
    if first == '(' && !in_class && outside {
        let around = AROUND.iter().find(|around| rest.starts_with(**around));
        if let Some(around) = around {
            return (around.len(), "(?:)");
        }
    }
    (first.len_utf8(), &rest[..first.len_utf8()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assertions_are_left_out() {
        for (pattern, without) in [
            ("^(?!foo)[a-z]+$", "^(?:)[a-z]+$"),
            ("^(?=.*[0-9])(?=.*[)])a(b|c)$", "^(?:)(?:)a(b|c)$"),
            ("(?<!a(b(c)))d(?<=e)", "(?:)d(?:)"),
            ("(?!\\))x", "(?:)x"),
            ("\\bword\\b[\\b]", "(?:)word(?:)[\\b]"),
            ("(a)\\1", "(a)(?:[\\s\\S]*)"),
            ("(a)\\12+b[\\12]", "(a)(?:[\\s\\S]*)+b[\\12]"),
            ("[(?!]a[]b](?=c)", "[(?!]a[]b](?:)"),
            ("(?:a)(?P<n>b)(?<m>c)", "(?:a)(?P<n>b)(?<m>c)"),
            ("(?=a", "(?:)"),
            ("a\\", "a\\"),
            ("é(?=ü)ß\\ü", "é(?:)ß\\ü"),
            ("(?=(?!a)b)c", "(?:)c"),
        ] {
            assert_eq!(without_assertions(pattern), without, "{pattern}");
        }
    }
}
