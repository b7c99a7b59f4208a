//! Chat templates of real models against jinja2.

mod models;

use eunoe_model::chat::{ChatTemplate, Message};
use eunoe_model::gguf::open;
use eunoe_model::tokenizer::Tokenizer;
use serde_json::Value;

#[test]
fn templates_render_as_with_jinja2() {
    let golden: Value = serde_json::from_str(include_str!("golden/chats.json")).unwrap();
    let conversations: Vec<Vec<Message>> = serde_json::from_value(golden["conversations"].clone()).unwrap();
    for (name, want) in golden["rendered"].as_object().unwrap() {
        let Some(path) = models::path(name) else { continue };
        let template =
            ChatTemplate::from_gguf(&open(&path).unwrap()).unwrap().expect("the model has a template");
        for (i, messages) in conversations.iter().enumerate() {
            let opens_turn = i < 2;
            assert_eq!(
                template.render(messages, opens_turn).unwrap(),
                want[i].as_str().unwrap(),
                "{name} {i}"
            );
        }
    }
}

#[test]
fn a_model_without_a_template_says_so() {
    let Some(path) = models::path("gemma3-270m") else { return };
    assert!(ChatTemplate::from_gguf(&open(&path).unwrap()).unwrap().is_none());
}

#[test]
fn a_rendered_prompt_has_one_bos() {
    let Some(path) = models::path("gemma3-270m") else { return };
    let tokenizer = Tokenizer::from_gguf(&open(&path).unwrap()).unwrap();
    let source = "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}";
    let template = ChatTemplate::new(source, "<bos>", "<eos>").unwrap();
    let ids = tokenizer.encode_prompt(&template.render(&[Message::new("user", "hi")], false).unwrap());
    assert_eq!(ids.iter().filter(|&&id| Some(id) == tokenizer.bos()).count(), 1);
    assert_eq!((Some(ids[0]), Some(ids[1])), (tokenizer.bos(), tokenizer.token_id("<start_of_turn>")));
}
