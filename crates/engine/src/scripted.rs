//! A model that follows a script, for fault and timing tests. It computes nothing, so no test of a real model's output
//! can use it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_scheduler::{HostCopyId, KvLimits, KvOp, PassLimits};

use crate::Token;
use crate::embed::EmbeddingContexts;
use crate::engine_thread::EngineThread;
use crate::failure::Failure;
use crate::grammar::{Grammar, GrammarError, Grammars};
use crate::model::{Capacity, EmbeddingModel, GenerationModel, Row, StepError};
use crate::model_info::{Kind, ModelInfo};
use crate::vocab::{ParseSpecial, Tokenize, Vocab, VocabTable};

pub use crate::script::{Poison, Script};

/// Causes the effect of a poisonous token.
fn swallow(poison: Poison) -> ! {
    let mut memory = Vec::new();
    loop {
        match poison {
            Poison::Die => panic!("the script says to die of this token"),
            Poison::Hang => {}
            Poison::Swell => memory.push(vec![1_u8; 16 << 20]),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The end-of-text token.
pub const EOS: Token = 257;
const CONTROL: [&str; 3] = ["<s>", "</s>", "<|x|>"];
const VOCAB: usize = 256 + CONTROL.len();

#[derive(Default)]
pub(crate) struct ByteTokenizer {
    poison: Option<(String, Poison)>,
}

impl Tokenize for ByteTokenizer {
    fn tokenize(&self, texts: &[&str], special: ParseSpecial) -> Result<Vec<Vec<Token>>, Failure> {
        if let Some((poison, effect)) = &self.poison
            && texts.iter().any(|text| text.contains(poison.as_str()))
        {
            match effect {
                Poison::Die => std::process::abort(),
                &effect => swallow(effect),
            }
        }
        Ok(texts.iter().map(|text| Self::tokens(text, special)).collect())
    }
}

impl ByteTokenizer {
    fn tokens(text: &str, special: ParseSpecial) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.bytes().next() {
            let control = (special == ParseSpecial::Yes)
                .then(|| (256..).zip(CONTROL).find(|(_, name)| rest.starts_with(name)))
                .flatten();
            if let Some((token, name)) = control {
                tokens.push(token);
                rest = &rest[name.len()..];
            } else {
                let len = rest.chars().next().map_or(1, char::len_utf8);
                tokens.push(Token::from(first));
                tokens.extend(rest.bytes().take(len).skip(1).map(Token::from));
                rest = &rest[len..];
            }
        }
        tokens
    }
}

/// Whether a grammar accepts a text, for tests of schemas.
///
/// # Errors
/// [`GrammarError`] if the grammar cannot be enforced.
pub fn can_answer(grammar: &Grammar, text: &str) -> Result<bool, GrammarError> {
    can_answer_in_pieces(grammar, &[(text, ParseSpecial::No)])
}

/// Whether a grammar accepts the tokens of consecutive pieces of text.
///
/// # Errors
/// [`GrammarError`] if the grammar cannot be enforced.
pub fn can_answer_in_pieces(
    grammar: &Grammar,
    pieces: &[(&str, ParseSpecial)],
) -> Result<bool, GrammarError> {
    let compiled = Grammars::new(vocab()).compile(grammar)?;
    let mut constraint = compiled.start();
    let tokens = pieces.iter().flat_map(|(text, special)| ByteTokenizer::tokens(text, *special));
    let tokens = tokens.chain([EOS]);
    let mut each = tokens.map(|token| {
        let ended = constraint.is_complete() && token == EOS;
        ended
            || constraint.mask().is_ok_and(|mask| mask.allows(token))
                && constraint.consume(token).is_ok()
    });
    Ok(each.all(|may| may))
}

/// An answer that follows a grammar: `choices` select among the allowed tokens, and the answer ends soon after them.
/// `None` if it does not end.
///
/// # Errors
/// [`GrammarError`] if the grammar cannot be enforced.
pub fn answer(grammar: &Grammar, choices: &[u8]) -> Result<Option<String>, GrammarError> {
    // What ends texts, JSON and tags.
    const ENDS: &[u8] = b"\"}]</>\n";
    let compiled = Grammars::new(vocab()).compile(grammar)?;
    let (mut constraint, mut bytes) = (compiled.start(), Vec::new());
    for step in 0..choices.len() + 600 {
        if constraint.is_complete() {
            return Ok(String::from_utf8(bytes).ok());
        }
        let Ok(mask) = constraint.mask() else { return Ok(None) };
        let allowed: Vec<u8> = (0..=u8::MAX).filter(|&b| mask.allows(Token::from(b))).collect();
        let next = match choices.get(step) {
            Some(&choice) if !allowed.is_empty() => {
                Some(allowed[usize::from(choice) % allowed.len()])
            }
            _ if mask.allows(EOS) => None,
            _ => {
                let mut ends = (0..ENDS.len()).map(|at| ENDS[(step + at) % ENDS.len()]);
                ends.find(|end| allowed.contains(end)).or_else(|| allowed.first().copied())
            }
        };
        let Some(byte) = next else { return Ok(String::from_utf8(bytes).ok()) };
        if constraint.consume(Token::from(byte)).is_err() {
            return Ok(None);
        }
        bytes.push(byte);
    }
    Ok(None)
}

/// The vocabulary of all scripted models.
pub fn vocab() -> Vocab {
    vocab_with(ByteTokenizer::default())
}

/// The same with this tokeniser.
fn vocab_with(tokenizer: ByteTokenizer) -> Vocab {
    let mut table = VocabTable { lossless: true, ..VocabTable::default() };
    let bytes = (0..=u8::MAX).map(|byte| vec![byte]);
    for piece in bytes.chain(CONTROL.iter().map(|name| name.as_bytes().to_vec())) {
        table.control.push(piece.len() > 1);
        table.bytes.extend_from_slice(&piece);
        table.ends.push(u32::try_from(table.bytes.len()).unwrap_or(u32::MAX));
    }
    table.eog = vec![EOS];
    table.prefix = vec![256];
    CONTROL[0].clone_into(&mut table.bos_text);
    CONTROL[1].clone_into(&mut table.eos_text);
    Vocab::new(table, Arc::new(tokenizer))
}

pub(crate) fn run(script: Script, engine: EngineThread) {
    let slots = engine.config.parallel;
    let info = ModelInfo {
        architecture: "scripted".to_owned(),
        kind: script.kind,
        n_ctx_train: script.slot_tokens,
        slot_tokens: script.slot_tokens,
        slots,
        n_embd: 4,
        n_params: 0,
        size_bytes: 0,
        chat_template: script.chat_template.clone(),
        ranking: None,
        fingerprint: "scripted".to_owned(),
    };
    let batch = engine.config.batch_size.unwrap_or(512).max(slots);
    let kind = script.kind;
    let cells = script.cells.unwrap_or(slots * script.slot_tokens);
    let kv = KvLimits {
        slots: slots * 4,
        cells,
        slot_tokens: script.slot_tokens,
        long_tokens: 0,
        shares: true,
        rewinds: true,
        parked_tokens: cells,
        saved_tokens: 0,
        saved_bytes: 0,
        checkpoint_every: 0,
    };
    let vocab = vocab_with(ByteTokenizer { poison: script.poison_text.clone() });
    let (slots, saved) = (HashMap::new(), HashMap::new());
    let player = Player { script, steps: 0, rows: Vec::new(), slots, saved };
    match kind {
        Kind::Chat => {
            let capacity = Capacity { kv, batch_tokens: batch, block: 1 };
            engine.serve_generation(info, vocab, capacity, player);
        }
        Kind::Embedding => {
            let pass = PassLimits { tokens: batch, inputs: info.slots as usize, block: 1 };
            let contexts = EmbeddingContexts { wide: player, narrow: Vec::new(), pass };
            engine.serve_embedding(info, vocab, contexts);
        }
    }
}

struct Player {
    script: Script,
    steps: u64,
    /// A row of logits for each row of the last step that wanted some.
    rows: Vec<Vec<f32>>,
    /// The tokens each slot holds.
    slots: HashMap<u32, Vec<Token>>,
    saved: HashMap<HostCopyId, Vec<Token>>,
}

impl Player {
    fn tick(&mut self) -> Result<(), StepError> {
        self.steps += 1;
        std::thread::sleep(self.script.step_time);
        assert!(self.script.dies_at != Some(self.steps), "the script says to die here");
        if self.script.failing_steps.contains(&self.steps) {
            return Err(StepError("the script says to fail here".to_owned()));
        }
        Ok(())
    }

    /// Causes the poison's effect if it is among these tokens.
    fn swallow(&self, mut tokens: impl Iterator<Item = Token>) {
        let Some((poison, effect)) = self.script.poison else { return };
        if !tokens.any(|token| token == poison) {
            return;
        }
        swallow(effect);
    }

    /// The next token: the text continues after the longest part of it that the tokens end with.
    fn next(&self, tokens: &[Token]) -> usize {
        let says = self.script.says.as_bytes();
        let said = |end: usize| {
            let cycle =
                (0..says.len()).map(|back| says[(end + says.len() - 1 - back) % says.len()]);
            let same = |(byte, token): &(u8, &Token)| Token::from(*byte) == **token;
            cycle.zip(tokens.iter().rev()).take_while(same).count()
        };
        let at = (0..says.len()).max_by_key(|&end| (said(end), end == 0)).unwrap_or(0);
        match says.get(at) {
            None | Some(0) => EOS as usize,
            Some(&byte) => usize::from(byte),
        }
    }

    /// Cells in use, each prefix once.
    fn cells(&self) -> usize {
        let mut prefixes = std::collections::HashSet::new();
        let all = self.slots.values().flat_map(|held| (1..=held.len()).map(|len| &held[..len]));
        all.filter(|prefix| prefixes.insert(*prefix)).count()
    }
}

impl GenerationModel for Player {
    fn step(&mut self, rows: &[Row], calls: &[usize]) -> Result<Vec<Duration>, StepError> {
        let started = Instant::now();
        self.tick()?;
        self.swallow(rows.iter().filter(|row| row.pos == 1).map(|row| row.token));
        self.rows.clear();
        for &Row { token, pos, slot, logits } in rows {
            let held = self.slots.entry(slot).or_default();
            if held.len() != pos as usize {
                return Err(StepError(format!("slot {slot} holds {}, not {pos}", held.len())));
            }
            held.push(token);
            let mut row = vec![0.0; if logits { VOCAB } else { 0 }];
            if logits {
                row[self.next(&self.slots[&slot])] = self.script.peak;
            }
            self.rows.push(row);
        }
        if let Some(limit) = self.script.cells.filter(|&limit| self.cells() > limit as usize) {
            return Err(StepError(format!("more than {limit} cells")));
        }
        // A step costs the same for any content, so its time need not be divided over the calls.
        Ok(vec![started.elapsed(); calls.len()])
    }

    fn logits(&self, index: usize) -> &[f32] {
        &self.rows[index]
    }

    fn change(&mut self, op: KvOp) -> Result<(), StepError> {
        let cut = |held: &[Token], keep: u32| held[..held.len().min(keep as usize)].to_vec();
        let held = |slot: u32| self.slots.get(&slot).cloned().unwrap_or_default();
        match op {
            KvOp::Trim { slot, keep } => {
                self.slots.insert(slot.0, cut(&held(slot.0), keep));
            }
            KvOp::Copy { from, to, keep } => {
                self.slots.insert(to.0, cut(&held(from.0), keep));
            }
            KvOp::Save { slot, copy } => {
                self.saved.insert(copy, held(slot.0));
            }
            KvOp::Restore { copy, slot, keep } => {
                let none = || StepError("nothing was saved".to_owned());
                let all = self.saved.get(&copy).ok_or_else(none)?;
                self.slots.insert(slot.0, cut(all, keep));
            }
            KvOp::Forget { copy } => {
                self.saved.remove(&copy);
            }
        }
        Ok(())
    }

    fn copy_bytes(&self, copy: HostCopyId) -> Option<u64> {
        self.saved.get(&copy).map(|held| held.len() as u64)
    }
}

impl EmbeddingModel for Player {
    fn embed(&mut self, inputs: &[&[Token]]) -> Result<Vec<Vec<f32>>, StepError> {
        self.tick()?;
        self.swallow(inputs.iter().filter_map(|input| input.get(1)).copied());
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let vector = |input: &&[Token]| vec![input.len() as f32, 1.0, 0.0, 0.0];
        Ok(inputs.iter().map(vector).collect())
    }
}
