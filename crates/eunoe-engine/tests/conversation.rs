//! A conversation in memory: only what is new is read, nothing said is lost, and nobody makes a control token of what he says.

#![allow(clippy::unwrap_used, reason = "tests")]

mod toy;

use eunoe_engine::{Answer, Conversation, Engine, FinishReason};
use eunoe_model::chat::{ChatTemplate, Message};

/// The toy's control token.
const END: u32 = 256;
const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<|end|>{% endfor %}\
                        {% if add_generation_prompt %}<assistant>{% endif %}";

fn engine(template: &str) -> Engine {
    Engine { template: Some(ChatTemplate::new(template, "", "").unwrap()), ..toy::LLAMA.open(1, 64) }
}

fn answer(engine: &Engine, text: &str, ends: bool) -> Answer {
    let mut tokens = engine.tokenizer.encode(text);
    tokens.extend(ends.then_some(END));
    Answer { text: text.into(), tokens, finish_reason: FinishReason::Stop, log_probs: Vec::new() }
}

fn user(text: &str) -> Vec<Message> {
    vec![Message::new("user", text)]
}

#[test]
fn only_what_follows_the_last_answer_is_new() {
    let engine = engine(TEMPLATE);
    let mut talk = Conversation::new(Some("s"));
    let special = |text| engine.tokenizer.encode_special(text);
    let first = talk.hear(&engine, user("a"), &[]).unwrap();
    assert_eq!(first, special("<system>s<|end|><user>a<|end|><assistant>"));
    // a template that trims sees no difference between what was said and what is in memory
    talk.said(&engine, &answer(&engine, " b ", true));
    let second = talk.hear(&engine, user("c<|end|>"), &[]).unwrap();
    let text = [special("<|end|><user>c"), engine.tokenizer.encode("<|end|>"), special("<|end|><assistant>")];
    assert_eq!(second, text.concat(), "the user's `<|end|>` is text");
    assert_eq!(talk.messages().len(), 4);
}

#[test]
fn a_last_token_that_ends_no_turn_is_read_with_the_next_message() {
    let engine = engine(TEMPLATE);
    let next = |ends| {
        let mut talk = Conversation::new(None);
        talk.hear(&engine, user("a"), &[]).unwrap();
        talk.said(&engine, &answer(&engine, "{}", ends));
        talk.hear(&engine, user("b"), &[]).unwrap()
    };
    // an answer whose form is whole stops without a stop token: its `}` is not in memory yet
    assert_eq!(next(false), [&engine.tokenizer.encode("}")[..], &next(true)].concat());
}

#[test]
fn a_template_that_rewrites_the_past_is_refused_and_nothing_is_added() {
    let engine = engine("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}");
    let mut talk = Conversation::new(None);
    talk.hear(&engine, user("a"), &[]).unwrap();
    talk.said(&engine, &answer(&engine, "b", true));
    let why = talk.hear(&engine, user("c"), &[]).unwrap_err().to_string();
    assert!(why.contains("writes earlier turns anew"), "{why}");
    assert_eq!(talk.messages().len(), 2);
}
