//! What the parsers of single calls share with the parser of a reply.

/// What is known of the call being read and not emitted yet.
#[derive(Debug, Clone, Default)]
pub(super) struct PendingCall {
    /// The tool's name.
    pub(super) name: Option<String>,
    /// Arguments to append, JSON text.
    pub(super) arguments: String,
}

/// The effect of a character on the call being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallStep {
    /// The call continues. The last `back` bytes, the character's included, are read again.
    More { back: usize },
    /// The call is complete without the last `back` bytes, the character's included.
    End { back: usize },
    /// The character is not valid here: the text is no call, or no longer one.
    Invalid,
}

impl CallStep {
    /// The call continues after the character.
    pub(super) const NEXT: Self = Self::More { back: 0 };
}
