//! A model that follows a script, for fault and timing tests: nothing here computes anything, so
//! nothing that depends on what a real model says may be tested with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_scheduler::{Pass, StepTime};

use crate::Token;
use crate::embed::Contexts;
use crate::handle::Host;
use crate::model::{EmbeddingModel, Kind, Model, ModelInfo, Row, StepError};
use crate::vocab::{ParseSpecial, Tokenize, Vocab, VocabTable};

/// How the scripted model behaves.
///
/// Its vocabulary is the 256 bytes, then `<s>`, `</s>` and `<|x|>`. For every sequence it says
/// [`Script::says`] over and over, one byte a token, by position after the prompt.
#[derive(Debug, Clone)]
pub struct Script {
    /// What it is.
    pub kind: Kind,
    /// What it says; an `\0` stands for the end-of-text token.
    pub says: String,
    /// How long each step takes.
    pub step_time: Duration,
    /// Steps (counted from 1) that fail.
    pub failing_steps: Vec<u64>,
    /// The step (counted from 1) in which its thread dies.
    pub dies_at: Option<u64>,
    /// What one request can hold, in tokens.
    pub slot_tokens: u32,
    /// Its chat template.
    pub chat_template: Option<String>,
}

/// The end-of-text token.
pub const EOS: Token = 257;
const CONTROL: [&str; 3] = ["<s>", "</s>", "<|x|>"];
const VOCAB: usize = 256 + CONTROL.len();

impl Default for Script {
    fn default() -> Self {
        Self {
            kind: Kind::Chat,
            says: "abc ".to_owned(),
            step_time: Duration::ZERO,
            failing_steps: Vec::new(),
            dies_at: None,
            slot_tokens: 4096,
            chat_template: Some(
                "{% for m in messages %}<|x|>{{ m.role }}:{{ m.content }}{% endfor %}".to_owned(),
            ),
        }
    }
}

struct ByteTokenizer;

impl Tokenize for ByteTokenizer {
    fn tokenize(&self, text: &str, special: ParseSpecial) -> Vec<Token> {
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

/// The vocabulary of all scripted models.
pub(crate) fn vocab() -> Vocab {
    let mut table = VocabTable::default();
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
    Vocab::new(table, Arc::new(ByteTokenizer))
}

pub(crate) fn run(script: Script, host: Host) {
    let slots = host.config.parallel;
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
        fingerprint: "scripted".to_owned(),
    };
    let batch = host.config.batch_size.unwrap_or(512).max(slots);
    let kind = script.kind;
    let player = Player { script, steps: 0, rows: Vec::new(), prompts: Vec::new() };
    match kind {
        Kind::Chat => host.serve_generation(info, vocab(), batch, player),
        Kind::Embedding => {
            let pass = Pass { tokens: batch, inputs: info.slots as usize, block: 1 };
            let contexts = Contexts { wide: player, narrow: Vec::new(), pass };
            host.serve_embedding(info, vocab(), contexts);
        }
    }
}

struct Player {
    script: Script,
    steps: u64,
    /// A row of logits for each row of the last step that wanted some.
    rows: Vec<Vec<f32>>,
    /// How many tokens each slot has been given.
    prompts: Vec<(u32, u32)>,
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

    /// Where the answer in `slot` begins: behind the first row that wanted logits.
    fn answer_start(&mut self, row: Row) -> u32 {
        match self.prompts.iter().find(|(slot, _)| *slot == row.slot) {
            Some((_, start)) => *start,
            None => {
                self.prompts.push((row.slot, row.pos));
                row.pos
            }
        }
    }
}

impl Model for Player {
    fn step(&mut self, rows: &[Row]) -> Result<StepTime, StepError> {
        let started = Instant::now();
        self.tick()?;
        self.rows.clear();
        for &row in rows {
            let mut logits = vec![0.0; if row.logits { VOCAB } else { 0 }];
            if row.logits {
                let at = (row.pos - self.answer_start(row)) as usize;
                let says = self.script.says.as_bytes();
                let token = match says.get(at % says.len().max(1)) {
                    None | Some(0) => EOS as usize,
                    Some(&byte) => usize::from(byte),
                };
                logits[token] = 20.0;
            }
            self.rows.push(logits);
        }
        // It costs the same whatever is in it, so who pays for what does not matter.
        Ok(StepTime { single: started.elapsed(), several: started.elapsed() })
    }

    fn logits(&self, index: usize) -> &[f32] {
        &self.rows[index]
    }

    fn copy_slot(&mut self, from: u32, to: u32) {
        self.trim_slot(to, 0);
        let start = self.prompts.iter().find(|(slot, _)| *slot == from).map(|(_, start)| *start);
        self.prompts.extend(start.map(|start| (to, start)));
    }

    fn trim_slot(&mut self, slot: u32, _keep: u32) {
        self.prompts.retain(|(other, _)| *other != slot);
    }

    fn rewinds(&self) -> bool {
        true
    }
}

impl EmbeddingModel for Player {
    fn embed(&mut self, inputs: &[&[Token]]) -> Result<Vec<Vec<f32>>, StepError> {
        self.tick()?;
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let vector = |input: &&[Token]| vec![input.len() as f32, 1.0, 0.0, 0.0];
        Ok(inputs.iter().map(vector).collect())
    }
}
