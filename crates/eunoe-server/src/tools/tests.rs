use super::*;
use proptest::prelude::*;

fn split(pieces: &[&str]) -> Vec<Part> {
    let mut splitter = Splitter::default();
    let mut parts: Vec<Part> = pieces.iter().flat_map(|piece| splitter.push(piece)).collect();
    parts.extend(splitter.finish());
    let mut joined = Vec::new();
    for part in parts {
        match part {
            Part::Text(text) => release(&mut joined, &text),
            call => joined.push(call),
        }
    }
    joined
}

fn text(text: &str) -> Part {
    Part::Text(text.into())
}

fn call(name: &str, arguments: &str) -> Part {
    Part::Call(Call { name: name.into(), arguments: arguments.into() })
}

#[test]
fn text_comes_at_once_and_what_may_open_a_call_waits() {
    let mut splitter = Splitter::default();
    let mut push = |more: &str| splitter.push(more);
    assert_eq!(push("Let me see "), [text("Let me see ")]);
    assert_eq!(push("<b> <tool"), [text("<b> ")]);
    assert_eq!(push("s> <"), [text("<tools> ")]);
    assert_eq!(push("tool_call>\n{\"name\": \"f\", "), []);
    assert_eq!(push("\"arguments\": {\"x\": \"}</tool_call>\\\"\"}"), []);
    assert_eq!(push("}\n</tool"), [call("f", "{\"x\": \"}</tool_call>\\\"\"}")]);
    assert_eq!(push("_call>\n"), []);
    assert_eq!(push("<tool_call>{\"name\": \"g\"}"), [call("g", "{}")]);
    assert_eq!(push("done"), [text("done")]);
    assert_eq!(splitter.finish(), []);
}

#[test]
fn what_is_no_call_is_text() {
    for whole in [
        "<tool_call> is a tag",
        "<tool_call>{\"name\": 1}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}",
        "<tool_call>{\"name\": \"f\", \"argu",
        "a </tool_call> b",
        " \n",
        "<tool_cal",
    ] {
        assert_eq!(split(&[whole]), [text(whole)]);
    }
    assert_eq!(split(&["<tool_call><tool_call>{\"name\":\"f\"}"]), [text("<tool_call>"), call("f", "{}")]);
}

#[test]
fn arguments_are_letter_by_letter_those_of_the_model() {
    let parse = |arguments: &str| {
        Call::parse(&format!("{{\"arguments\": {arguments}, \"name\": \"f\"}}")).map(|call| call.arguments)
    };
    let odd = "{\"b\":  1.0, \"a\": 123456789012345678901234567890}";
    assert_eq!(parse(odd).as_deref(), Some(odd));
    assert_eq!(parse("\"{\\\"a\\\": 1}\"").as_deref(), Some("{\"a\": 1}"), "an object written as a text");
    assert_eq!((parse("\"x\""), parse("3"), parse("null").as_deref()), (None, None, Some("{}")));
    assert_eq!(Call::parse("{\"name\": \"f\", \"parameters\": {}}").unwrap().arguments, "{}");
    assert_eq!(Call::parse("{\"arguments\": {}}"), None);
}

fn tool(function: Value) -> Result<Tool> {
    Tool::read(&json!({ "type": "function", "function": function }))
}

#[test]
fn tools_are_read_or_refused_by_name() {
    let says = |tool: Result<Tool>, what: &str| {
        let e = tool.unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    };
    says(Tool::read(&json!({ "type": "web_search" })), "type `function`, got `\"web_search\"`");
    says(Tool::read(&json!(3)), "got `null`");
    says(tool(json!({})), "needs `function.name`");
    says(tool(json!({ "name": "a\"b" })), "letters, digits");
    says(tool(json!({ "name": "a".repeat(65) })), "1 to 64");
    says(
        tool(json!({ "name": "f", "parameters": { "type": "string" } })),
        "must be a schema of type `object`",
    );
    says(tool(json!({ "name": "f", "parameters": [] })), "must be a schema");
    let nothing = json!({ "properties": {}, "type": "object", "additionalProperties": false });
    assert_eq!(tool(json!({ "name": "f" })).unwrap().arguments(), nothing);
    let open = json!({ "type": "object", "properties": {}, "additionalProperties": true });
    assert_eq!(tool(json!({ "name": "f", "parameters": open })).unwrap().arguments(), open);
}

#[test]
fn a_choice_is_one_of_four() {
    let tools = [tool(json!({ "name": "f" })).unwrap()];
    let read = |choice: Value| Choice::read(Some(&choice), &tools);
    assert_eq!(Choice::read(None, &tools).unwrap(), Choice::Auto);
    assert_eq!(Choice::read(None, &[]).unwrap(), Choice::None);
    assert_eq!(read(json!("none")).unwrap(), Choice::None);
    assert_eq!(read(json!("required")).unwrap(), Choice::Required);
    let named = |name: &str| json!({ "type": "function", "function": { "name": name } });
    assert_eq!(read(named("f")).unwrap(), Choice::Named("f".into()));
    for (choice, what) in
        [(named("g"), "names `g`"), (json!("any"), "is `none`, `auto`"), (json!(1), "is `none`")]
    {
        assert!(read(choice).unwrap_err().to_string().contains(what));
    }
    assert!(Choice::read(Some(&json!("required")), &[]).is_err());
}

proptest! {
    #[test]
    fn pieces_make_no_difference(
        parts in prop::collection::vec(prop::sample::select(vec![
            "<tool_call>", "</tool_call>", "{\"name\": \"f\"", ", \"arguments\": {\"x\": \"é{\"}", "}", "\n", "<tool", "_call>", "a", "\"", "é",
        ]), 0..12),
        cuts in prop::collection::vec(0_usize..200, 0..8),
    ) {
        let whole = parts.concat();
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| whole.is_char_boundary(*cut)).collect();
        cuts.extend([0, whole.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|two| &whole[two[0]..two[1]]).collect();
        let parts = split(&pieces);
        prop_assert_eq!(&parts, &split(&[&whole]));
        if parts.iter().all(|part| matches!(part, Part::Text(_))) {
            let text: String = parts.into_iter().map(|p| match p { Part::Text(t) => t, Part::Call(_) => String::new() }).collect();
            prop_assert_eq!(text, whole);
        }
    }
}
