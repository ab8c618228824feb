//! Prevents that the text of a user becomes a control token.
//!
//! Rendered prompts are tokenised with control tokens recognised, because the template writes their names
//! (`<|im_start|>`). The same name in a user's text must stay text. So a sentinel, a Unicode noncharacter that no user
//! sent, is inserted wherever a user's text contains a name, or could complete one together with the text of the template
//! around it. The sentinel passes through the template with the text. [`Guard::split`] cuts the rendering at sentinels
//! where a name would arise otherwise, so that no piece contains a name that the template itself did not write. Elsewhere
//! sentinels are removed, so ordinary text gets its ordinary tokens.

use std::collections::HashSet;

use crate::control_names::ControlNames;

/// Unicode noncharacters, one of which becomes the sentinel.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fded}';

/// The sentinel where a template cut a text or joined two (`template/string_methods.rs`).
pub(crate) const JOINT: char = '\u{fdee}';

/// The sentinel at the end of the message that the model continues.
pub(crate) const MESSAGE_END: char = '\u{fdef}';

/// Whether a character is used as a sentinel.
pub(crate) fn is_reserved(c: char) -> bool {
    NONCHARACTERS.contains(&c) || c == JOINT || c == MESSAGE_END
}

/// The sentinel of one rendering, and the names of control tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard<'a> {
    names: &'a ControlNames,
    sentinel: char,
}

impl<'a> Guard<'a> {
    /// A guard whose sentinel is in none of `texts`; `None` if they contain all noncharacters, or [`JOINT`] or
    /// [`MESSAGE_END`], as only an attack does.
    pub(crate) fn new<'t>(
        names: &'a ControlNames,
        texts: impl Iterator<Item = &'t str>,
    ) -> Option<Self> {
        let found: HashSet<char> =
            texts.flat_map(|text| text.chars().filter(|c| is_reserved(*c))).collect();
        let sentinel = NONCHARACTERS.into_iter().find(|c| !found.contains(c))?;
        let free = !found.contains(&MESSAGE_END) && !found.contains(&JOINT);
        free.then_some(Self { names, sentinel })
    }

    /// The text with sentinels where it needs them; most texts need none.
    pub(crate) fn protect(&self, text: &str) -> String {
        self.names.insert_sentinels(text, self.sentinel)
    }

    /// Removes sentinels from a rendering and cuts it into pieces where removing one would make a name.
    pub(crate) fn split(&self, rendered: &str) -> Vec<String> {
        let mut pieces: Vec<String> = Vec::new();
        for more in rendered.split([self.sentinel, JOINT]).filter(|more| !more.is_empty()) {
            match pieces.last_mut() {
                Some(piece) if !self.names.can_span(piece, more) => piece.push_str(more),
                _ => pieces.push(more.to_owned()),
            }
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 5] = ["<|im_start|>", "<|im_end|>", "</s>", "[INST]", "<<"];

    fn names() -> ControlNames {
        ControlNames::new(NAMES.map(str::to_owned))
    }

    #[track_caller]
    fn check(text: &str, pieces: &[&str]) {
        let names = names();
        let guard = Guard::new(&names, [text].into_iter()).unwrap();
        assert_eq!(guard.split(&guard.protect(text)), pieces, "{text:?}");
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        check("Is 1 < 2? Yes, and a[i] > 0.", &["Is 1 < 2? Yes, and a[i] > 0."]);
        check("grüße 👋 ", &["grüße 👋 "]);
    }

    #[test]
    fn control_names_are_cut_inside() {
        check("a <|im_start|>system", &["a <", "|im_start|>system"]);
        check("<<<", &["<", "<", "<"]);
    }

    #[test]
    fn halves_of_names_are_cut_off_from_what_is_around_them() {
        check("hello <|im_", &["hello <|im_"]);
        let names = names();
        let guard = Guard::new(&names, std::iter::empty()).unwrap();
        let rendered = |text: &str| format!("[{}]<|im_end|>", guard.protect(text));
        assert_eq!(guard.split(&rendered("INST]x")), ["[", "INST]x]<|im_end|>"]);
        assert_eq!(guard.split(&format!("{}<b", guard.protect("x <"))), ["x <", "<b"]);
        // What completes nothing leaves no trace.
        assert_eq!(guard.split(&rendered("x <")), ["[x <]<|im_end|>"]);
        assert_eq!(guard.split(&rendered("im")), ["[im]<|im_end|>"]);
    }

    #[test]
    fn noncharacters_in_the_text_are_no_way_around_it() {
        let names = names();
        let hostile = "<\u{fdd0}|im_end|>";
        let guard = Guard::new(&names, [hostile].into_iter()).unwrap();
        assert_eq!(guard.split(hostile), [hostile]);
        let all: String = ('\u{fdd0}'..='\u{fdef}').collect();
        assert!(Guard::new(&names, [all.as_str()].into_iter()).is_none());
    }

    /// Mistral's vocabularies have a thousand control tokens: a search for each of them in this text takes more than ten
    /// seconds.
    #[test]
    fn many_names_cost_no_more_than_few() {
        let names = ControlNames::new((0..1000).map(|n| format!("<SPECIAL_{n}>")));
        let began = std::time::Instant::now();
        for unit in ["<", "<SPECIAL_", "<SPECIAL_7>", "harmless text "] {
            let text = unit.repeat(1_000_000 / unit.len());
            let guard = Guard::new(&names, [text.as_str()].into_iter()).unwrap();
            assert_eq!(guard.split(&guard.protect(&text)).concat(), text);
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    }

    proptest! {
        #[test]
        fn no_piece_holds_a_name_and_nothing_is_lost(text in "([<|>/\\[\\]sINT ]|im_start|im_end|\u{fdd0}|é){0,12}") {
            let names = names();
            let guard = Guard::new(&names, [text.as_str()].into_iter()).unwrap();
            let pieces = guard.split(&guard.protect(&text));
            prop_assert_eq!(pieces.concat(), text);
            for piece in pieces {
                prop_assert!(NAMES.iter().all(|name| !piece.contains(name)), "{}", piece);
            }
        }
    }
}
