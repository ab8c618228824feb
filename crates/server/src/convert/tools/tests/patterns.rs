//! Expressions for texts and for names of arguments.

use super::*;

#[test]
fn patterns_may_have_their_anchors_in_each_alternative() {
    let of = |pattern: &str| {
        json!({"type": "object", "required": ["a"], "additionalProperties": false,
        "properties": {"a": {"type": "string", "pattern": pattern}}})
    };
    for (pattern, may, may_not) in [
        ("^^a$$", "a", "ab"),
        ("^a$|^b$", "b", "ba"),
        ("^(?:^a$|b)$", "b", "xb"),
        ("^a|b$", "xb", "xa"),
        ("^\\d$", "7", "٧"),
    ] {
        for strict in [false, true] {
            let wanted = wanted(&of(pattern), strict).unwrap();
            assert_eq!(wanted.not_enforced().names(), None, "{pattern}");
            let can = |text: &str| can_answer(wanted.grammar(), &call(&[("a", text)]));
            assert_eq!((can(may), can(may_not)), (Ok(true), Ok(false)), "{pattern}");
        }
    }
    // Anchors that the compiler would look for in vain, and what it does not read.
    for pattern in ["(^a)b", "x(?=y)"] {
        assert!(why(&wanted(&of(pattern), true).unwrap_err()).contains("'pattern'"), "{pattern}");
        let wanted = wanted(&of(pattern), false).unwrap();
        assert_eq!(wanted.not_enforced().names().as_deref(), Some("pattern"));
        let text = if pattern.contains('=') { "x" } else { "ab" };
        assert_eq!(can_answer(wanted.grammar(), &call(&[("a", text)])), Ok(true), "{pattern}");
    }
}

#[test]
fn expressions_for_names_that_no_argument_can_have_are_left_out() {
    let number = json!({"type": "integer"});
    let of = |patterns: &[&str], others: &Value| {
        let all: serde_json::Map<_, _> =
            patterns.iter().map(|one| ((*one).to_owned(), number.clone())).collect();
        json!({"type": "object", "patternProperties": all, "additionalProperties": others})
    };
    let (none, text) = (json!(false), json!({"type": "string"}));
    for (patterns, others) in
        [(&["^\\$"][..], &none), (&["^[äöü]+$", "^k"], &none), (&["(^k)a"], &text)]
    {
        let schema = of(patterns, others);
        assert!(why(&wanted(&schema, true).unwrap_err()).contains("'patternProperties'"));
        let wanted = wanted(&schema, false).unwrap();
        assert_eq!(wanted.not_enforced().names().as_deref(), Some("patternProperties"));
        assert_eq!(can_answer(wanted.grammar(), &call(&[])), Ok(true), "{schema}");
        let value = if *others == text { "x" } else { "1" };
        let k = can_answer(wanted.grammar(), &call(&[("k", value)]));
        assert_eq!(k, Ok(patterns != ["^\\$"]), "{schema}");
    }
    // Names that others have already, or that leave none for others.
    let mut own = of(&["^a$"], &none);
    own["properties"] = json!({"a": {"type": "string"}});
    check(&own, &[&[], &[("a", "x")]], &[&[("b", "1")]]);
    let all = of(&[".*"], &text);
    check(&all, &[&[], &[("a", "1")]], &[&[("a", "x")]]);
    let within = of(&["^ab", "^a"], &text);
    check(&within, &[&[("ac", "1")], &[("b", "x")], &[("xa", "x")]], &[&[("a", "x")]]);
    for schema in [all, within] {
        assert_eq!(wanted(&schema, true).unwrap().not_enforced().names(), None, "{schema}");
    }
}
