//! Templates that are made to do harm.

use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::{Map, json};

use super::jinja::{MAX_REASON, MAX_SOURCE};
use super::*;

/// A vocabulary with these control tokens.
fn tokens(control: Vec<&'static str>) -> SpecialTokens<'static> {
    SpecialTokens { bos: "<s>", eos: "</s>", control, ends: vec!["</s>", "é"] }
}

fn options(variables: &Map<String, serde_json::Value>) -> RenderOptions<'_> {
    RenderOptions {
        add_generation_prompt: true,
        continue_final_message: false,
        tools: &[],
        arguments_as_text: false,
        variables,
        now: SystemTime::UNIX_EPOCH,
    }
}

/// Loads a template and renders by it on a stack as small as any that it will have; `None` if it is not valid.
fn render(source: &str) -> Option<Result<usize, RenderError>> {
    let (sender, receiver) = mpsc::channel();
    let (source, start) = (source.to_owned(), source.chars().take(80).collect::<String>());
    let run = move || {
        let rendered = ChatTemplate::new(&source, &tokens(Vec::new())).ok().map(|template| {
            let turns = [Turn::of("user", "x")];
            let rendered = template.render(&turns, &options(&Map::new()));
            rendered.map(|pieces| pieces.concat().len())
        });
        let _ = sender.send(rendered);
    };
    let thread = std::thread::Builder::new().name("render".to_owned()).stack_size(2 << 20);
    drop(thread.spawn(run).unwrap());
    receiver.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("no end: {start}"))
}

#[test]
fn long_chains_do_not_overflow_the_stack() {
    let n = 5_000;
    for source in [
        format!("{{{{ {}1{} }}}}", "(".repeat(n), ")".repeat(n)),
        format!("{{{{ {}1 }}}}", "-".repeat(60_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(15_000)),
        format!("{{{{ a{} }}}}", ".b".repeat(30_000)),
        format!("{{{{ a{} }}}}", "|trim".repeat(12_000)),
        format!("{{{{ a{} }}}}", "+a".repeat(8_000)),
        format!("{{{{ a{} }}}}", " if a else a".repeat(n)),
        format!("{{% if a %}}{}{{% endif %}}", "{%elif a%}".repeat(6_000)),
        format!("{}{}", "{% if a %}".repeat(n / 2), "{% endif %}".repeat(n / 2)),
        "x".repeat(MAX_SOURCE + 1),
    ] {
        let _ = render(&source);
    }
}

#[test]
fn what_is_written_is_charged() {
    let doubled = "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}\
                   {% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    let text = "{% set s = 'a' * 5000000 %}{% for i in range(100000) %}";
    for source in [
        format!("{doubled}{{{{ ns.x|tojson }}}}"),
        format!("{doubled}{{{{ ns.x }}}}"),
        format!("{doubled}{{{{ {{'a': ns.x}}|tojson(indent=4) }}}}"),
        format!("{text}{{% if s.isalnum() %}}{{% endif %}}{{% endfor %}}"),
        format!("{text}{{{{ strftime_now(s) }}}}{{% endfor %}}"),
        "{{ 'a' * 1000000000 }}".to_owned(),
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}\
         {% endfor %}{{ ns.s }}"
            .to_owned(),
        "{% for i in range(100000) %}{% for j in range(100000) %}{{ strftime_now('%c') }}\
         {% endfor %}{% endfor %}"
            .to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(300) %}{% set ns.x = [ns.x] %}{% endfor %}\
         {{ ns.x|tojson }}"
            .to_owned(),
        "{% for i in range(90000) %}{{ [range(100000)]|tojson }}{% endfor %}".to_owned(),
    ] {
        let rendered = render(&source);
        let stopped = matches!(rendered, Some(Err(RenderError::TooMuch | RenderError::Template(_))));
        assert!(stopped, "{source} {rendered:?}");
    }
    // Reading a text for its kind costs nothing.
    let kinds =
        "{% set s = 'a' * 500000 %}{% for i in range(9000) %}{{ s is iterable }}{% endfor %}";
    assert!(render(kinds).is_some_and(|rendered| rendered.is_ok()));
}

#[test]
fn deep_values_are_freed_on_small_stacks() {
    let deep = "{% set ns = namespace(x=[]) %}{% for j in range(90) %}{% for i in range(90000) %}\
                {% set ns.x = [ns.x] %}{% endfor %}{% endfor %}";
    assert_eq!(render(deep), Some(Err(RenderError::TooMuch)));
}

#[test]
fn reasons_are_short() {
    let rendered = render("{{ raise_exception('x' * 100000) }}");
    assert_eq!(rendered, Some(Err(RenderError::Raised("x".repeat(MAX_REASON)))));
}

/// Long conversations have fuel enough, whatever is long about them.
#[test]
fn long_conversations_are_rendered() {
    let source = "{% for t in tools %}{{ t|tojson(indent=4) }}{% endfor %}{% for m in messages %}\
                  {% if m.content.strip().startswith('</think>') %}{{ m.content.split('</think>')[-1] }}\
                  {% else %}{{ '<|' + m.role + '|>' + m.content|trim }}{% endif %}{% endfor %}";
    let template = ChatTemplate::new(source, &SpecialTokens::default()).unwrap();
    let variables = Map::new();
    let many = vec![Turn::of("user", "word"); 20_000];
    let long = [Turn::of("user", "word ".repeat(2_000_000))];
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"properties":
        (0..1000).map(|n| (format!("key{n}"), json!({"type": "string"}))).collect::<Map<_, _>>()}}});
    let tools = vec![tool; 50];
    assert!(template.render(&many, &options(&variables)).is_ok());
    assert!(template.render(&long, &options(&variables)).is_ok());
    let options = RenderOptions { tools: &tools, ..options(&variables) };
    assert!(template.render(&many[..1], &options).is_ok());
}

proptest! {
    /// Any template is refused or rendered, and nothing panics.
    #[test]
    fn any_source_is_refused_or_rendered(
        parts in proptest::collection::vec(
            "(\\{\\{ | \\}\\}|\\{% | %\\}|for m in messages|endfor|if tools|endif|m\\.content|m|messages\\[0\\]\
             |\\|tojson|\\|trim|set x = |x|'<think>'|'é'|raise_exception\\(|strftime_now\\(|\\)|~|\\+|\\[|\\]|:|-?1|\\.|range\\(9\\)|\u{3000}|é)",
            0..16,
        ),
    ) {
        if let Ok(template) = ChatTemplate::new(&parts.concat(), &tokens(vec!["<think>"])) {
            let _ = template.render(&[Turn::of("user", "é<think>\u{3000}")], &options(&Map::new()));
        }
    }
}

/// What a user wrote never completes what the template begins, wherever it cuts the text.
#[test]
fn text_that_a_template_rewrites_stays_text() {
    let tokens = tokens(vec!["<|im_end|>", "[INST]"]);
    for (expression, content, pieces) in [
        ("content.split('</think>')[-1]", "x</think>INST]y", ["[", "INST]y"]),
        ("content.split('</think>')[0]", "a [</think>", ["[a [", "INST]"]),
        ("content.strip('*')", "*INST]y", ["[", "INST]y"]),
        ("content.splitlines()[1]", "x\nINST]y", ["[", "INST]y"]),
        ("content.lower()", "<|IM_END|>", ["[<", "|im_end|>"]),
        ("content.replace('/think', '')", "/thinkINST]y", ["[", "INST]y"]),
    ] {
        let source = format!(
            "{{% for m in messages %}}{{% set content = m.content %}}[{{{{ {expression} }}}}{}{{% endfor %}}",
            if pieces[1] == "INST]" { "INST]" } else { "" }
        );
        let template = ChatTemplate::new(&source, &tokens).unwrap();
        let turns = [Turn::of("user", content)];
        assert_eq!(template.render(&turns, &options(&Map::new())).unwrap(), pieces, "{expression}");
    }
}
