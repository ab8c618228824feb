//! One answer fed with chosen tokens: what is sent, when, and why it ends.

use super::*;
use crate::request::SamplingParams;
use crate::scripted::{EOS, vocab};

fn request(max_tokens: u32, stop: StopRules) -> GenerateRequest {
    let plain =
        GenerateRequest::plain([Token::from(b'p')], max_tokens, SamplingParams::plain(0.0, 1));
    GenerateRequest { stop, logprobs: Some(1), ..plain }
}

/// Says `tokens` one by one. Returns the texts sent, the number of log probabilities sent with
/// each, and why it ended.
fn say(
    request: &GenerateRequest,
    tokens: &[Token],
) -> (Vec<(String, usize)>, Option<FinishReason>) {
    let vocab = vocab();
    let mut sequence = Sequence::new(request, 0, None, &vocab, false);
    let mut sent = Vec::new();
    for &token in tokens {
        let mut logits = vec![0.0; vocab.len()];
        logits[token as usize] = 10.0;
        let growth = sequence.sample(&logits, &vocab, &mut Scratch::default());
        sent.push((growth.text, growth.logprobs.len()));
        if growth.finished.is_some() {
            return (sent, growth.finished);
        }
    }
    (sent, None)
}

fn bytes(text: &str) -> Vec<Token> {
    text.bytes().map(Token::from).collect()
}

fn texts(sent: &[(String, usize)]) -> Vec<&str> {
    sent.iter().map(|(text, _)| text.as_str()).collect()
}

#[test]
fn length_and_end_of_text_end_an_answer() {
    let (sent, reason) = say(&request(2, StopRules::default()), &bytes("abc"));
    assert_eq!((texts(&sent), reason), (vec!["a", "b"], Some(FinishReason::Length)));
    let (sent, reason) = say(&request(9, StopRules::default()), &[97, EOS, 98]);
    assert_eq!((texts(&sent), reason), (vec!["a", ""], Some(FinishReason::EndOfText)));
    let (sent, reason) = say(&request(0, StopRules::default()), &bytes("abc"));
    assert_eq!((texts(&sent), reason), (vec![""], Some(FinishReason::Length)));
}

#[test]
fn a_character_over_four_tokens_is_sent_whole_with_its_log_probabilities() {
    let (sent, _) = say(&request(9, StopRules::default()), &bytes("a\u{1F600}b"));
    let expected = [("a", 1), ("", 0), ("", 0), ("", 0), ("\u{1F600}", 4), ("b", 1)];
    assert_eq!(sent, expected.map(|(t, n)| (t.to_owned(), n)));
}

#[test]
fn a_broken_character_at_the_end_is_replaced_not_lost() {
    let (sent, _) = say(&request(2, StopRules::default()), &[97, 0xF0]);
    assert_eq!(texts(&sent), ["a", "\u{FFFD}"]);
}

#[test]
fn stop_strings_cut_text_and_log_probabilities() {
    let stop = StopRules { strings: vec!["END".into()], ..StopRules::default() };
    let (sent, reason) = say(&request(9, stop.clone()), &bytes("xENDy"));
    assert_eq!(reason, Some(FinishReason::StopString("END".into())));
    assert_eq!(sent, [("x", 1), ("", 0), ("", 0), ("", 0)].map(|(t, n)| (t.to_owned(), n)));
    let (sent, reason) = say(&request(3, stop), &bytes("xEN"));
    assert_eq!(reason, Some(FinishReason::Length));
    assert_eq!(sent, [("x", 1), ("", 0), ("EN", 2)].map(|(t, n)| (t.to_owned(), n)));
}

#[test]
fn stop_tokens_end_an_answer_without_being_part_of_it() {
    let stop = StopRules { tokens: vec![98], ..StopRules::default() };
    let (sent, reason) = say(&request(9, stop), &bytes("ab"));
    assert_eq!((texts(&sent), reason), (vec!["a", ""], Some(FinishReason::StopToken(98))));
}

#[test]
fn before_min_tokens_nothing_ends_an_answer() {
    let stop = StopRules {
        strings: vec!["a".into()],
        min_tokens: 3,
        tokens: vec![98],
        ..StopRules::default()
    };
    let (sent, reason) = say(&request(9, stop), &[97, EOS, 98, 97]);
    // EOS and the stop token may not be chosen, so the likeliest other token is, byte 0.
    assert_eq!(texts(&sent), ["a", "\0", "\0", ""]);
    assert_eq!(reason, Some(FinishReason::StopString("a".into())));
}

#[test]
fn ignore_eos_never_chooses_it() {
    let stop = StopRules { ignore_eos: true, ..StopRules::default() };
    let (sent, reason) = say(&request(2, stop), &[EOS, EOS]);
    assert_eq!((texts(&sent), reason), (vec!["\0", "\0"], Some(FinishReason::Length)));
}
