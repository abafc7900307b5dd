//! Conversations rendered as Hugging Face renders them.

use std::time::Duration;

use glint_tokenizer::{ChatTemplate, Conversation, Prompt, TemplateError};
use serde_json::{Map, Value, json};

use crate::shared::{Files, fixtures, json as read_json, read};
use crate::small;

pub(crate) fn render(
    template: &ChatTemplate,
    messages: &Value,
    tools: Option<&Value>,
    add_generation_prompt: bool,
) -> Result<Prompt, TemplateError> {
    let extra = Map::new();
    let now = Duration::from_secs(1_732_500_000);
    template.render(&Conversation { messages, tools, add_generation_prompt, extra: &extra, now })
}

pub(crate) fn compile(source: &str) -> ChatTemplate {
    Files::default().with("chat_template.jinja", source).template(&small::glm4())
}

fn say(source: &str) -> String {
    let messages =
        json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]);
    render(&compile(source), &messages, None, false).unwrap().text().to_owned()
}

fn fail(source: &str) -> TemplateError {
    render(&compile(source), &json!([{"role": "user", "content": "hi"}]), None, false).unwrap_err()
}

#[test]
fn the_rendered_conversations_are_those_of_hugging_face() {
    let Some(fixtures) = fixtures() else { return };
    let templates = read_json(&fixtures.join("templates/templates.json"));
    let golden = read_json(&fixtures.join("templates/rendered.json"));
    let folder = fixtures.join("tokenizers/glm4-trunc512");
    let model = Files::default()
        .with("tokenizer.model", read(&folder.join("tokenizer.model")))
        .with("tokenizer_config.json", read(&folder.join("tokenizer_config.json")));
    let tokenizer = model.tokenizer();
    let mut checked = 0;
    for (name, rendered) in golden["rendered"].as_object().unwrap() {
        let source = templates[name].as_str().unwrap();
        let template = Files::default().with("chat_template.jinja", source).template(&tokenizer);
        for (key, expected) in rendered.as_object().unwrap() {
            let conversation = key.strip_suffix("+gen").unwrap_or(key);
            let messages = &golden["conversations"][conversation];
            let (messages, tools) =
                if name.ends_with("-0414") { lifted(messages) } else { (messages.clone(), None) };
            let generation = key.ends_with("+gen");
            let prompt = render(&template, &messages, tools.as_ref(), generation)
                .unwrap_or_else(|error| panic!("{name} {key}: {error}"));
            assert_eq!(prompt.text(), expected["text"].as_str().unwrap(), "{name} {key}");
            // But for the one that tries to forge, guarding changes no token.
            let tokens = tokenizer.encode_prompt(&prompt).unwrap();
            let plain = tokenizer.encode(prompt.text()).unwrap();
            assert_eq!(tokens == plain, conversation != "special_in_content", "{name} {key}");
            checked += 1;
        }
    }
    assert_eq!(checked, 30 * 2 * 6);
}

/// As the fixtures' note says: functions become the variable `tools`, and system messages without text go.
fn lifted(messages: &Value) -> (Value, Option<Value>) {
    let mut tools = Vec::new();
    let mut kept = Vec::new();
    for message in messages.as_array().unwrap() {
        let mut message = message.as_object().unwrap().clone();
        if let Some(Value::Array(list)) = message.remove("tools") {
            tools.extend(list.into_iter().filter(|tool| tool["type"] == "function"));
        }
        let empty = message.get("content").is_none_or(|content| content.is_null() || content == "");
        if message["role"] != "system" || !empty {
            kept.push(Value::Object(message));
        }
    }
    (Value::Array(kept), (!tools.is_empty()).then_some(Value::Array(tools)))
}

#[test]
fn blocks_eat_their_line_and_expressions_do_not() {
    let source = "{% for m in messages %}\n  {% if true %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}\nend\n";
    assert_eq!(say(source), "user\nassistant\nend");
    assert_eq!(say("a {%- if true -%} b {%- endif -%} c"), "abc");
    assert_eq!(
        say("{{ messages[0].nothing }}<{{ messages[0]['nothing'] is defined }}>{{ none }}"),
        "<False>None"
    );
}

#[test]
fn tojson_is_that_of_python() {
    let value = r#"{% set v = {"b": [1, 2.0, true, none], "a": "é\"\n<&'", "e": {}, "l": []} %}"#;
    assert_eq!(
        say(&format!("{value}{{{{ v | tojson }}}}")),
        r#"{"b": [1, 2.0, true, null], "a": "é\"\n<&'", "e": {}, "l": []}"#
    );
    assert_eq!(
        say(&format!("{value}{{{{ v | tojson(indent=2) }}}}")),
        "{\n  \"b\": [\n    1,\n    2.0,\n    true,\n    null\n  ],\n  \"a\": \"é\\\"\\n<&'\",\n  \"e\": {},\n  \"l\": []\n}"
    );
    assert_eq!(say(r#"{{ "é👋" | tojson(ensure_ascii=True) }}"#), r#""\u00e9\ud83d\udc4b""#);
    assert_eq!(
        say(r#"{{ {"b": 1, "a": 2} | tojson(sort_keys=true, separators=[",", ":"]) }}"#),
        r#"{"a":2,"b":1}"#
    );
    assert!(matches!(fail("{{ nothing | tojson }}"), TemplateError::Failed(_)));
}

#[test]
fn values_print_as_in_python() {
    assert_eq!(
        say("{{ 1.0 }} {{ 1e16 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ true }} {{ none }}"),
        "1.0 1e+16 3 3.5 True None"
    );
}

#[test]
fn methods_and_loop_controls_of_python_work() {
    let source = "{% for c in 'a-b-c-d'.split('-') %}{% if c == 'b' %}{% continue %}{% endif %}{% if c == 'd' %}{% break %}{% endif %}{{ c.upper() }}{% endfor %}";
    assert_eq!(say(source), "AC");
    assert_eq!(
        say(
            "{{ ' x '.strip() }}{{ 'abc'.startswith('ab') }}{{ 'abc'[::-1] }}{{ {'k': 1}.get('k') }}{{ {'k': 1}.get('q', 'none') }}"
        ),
        "xTruecba1none"
    );
    assert_eq!(say("{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}"), "b1a2");
    let namespace = "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}";
    assert_eq!(say(namespace), "2");
    assert_eq!(say("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') }}{{ f(x='b') }}"), "<a><b>");
    assert_eq!(say("{% generation %}x{% endgeneration %}"), "x");
}

#[test]
fn the_time_is_the_callers() {
    assert_eq!(say("{{ strftime_now('%d %B %Y') }}"), "25 November 2024");
    assert!(fail("{{ strftime_now('%Q') }}").to_string().contains("%Q"));
}

#[test]
fn a_template_that_refuses_is_quoted() {
    let source = "{% macro check() %}{{ raise_exception('roles must alternate') }}{% endmacro %}{{ check() }}";
    for source in ["{{ raise_exception('roles must alternate') }}", source] {
        let error = fail(source);
        assert!(
            matches!(&error, TemplateError::Refused(text) if text == "roles must alternate"),
            "{error:?}"
        );
    }
}

#[test]
fn a_template_that_fails_says_why() {
    let error = fail("{{ messages[0].content.nonsense() }}");
    assert!(matches!(error, TemplateError::Failed(_)), "{error:?}");
    assert!(error.to_string().contains("nonsense"), "{error}");
    let missing = fail("{{ messages[0].nothing.more }}");
    assert!(matches!(missing, TemplateError::Failed(_)), "{missing:?}");
}

#[test]
fn a_template_that_never_ends_or_says_too_much_is_stopped() {
    for source in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{% for i in range(90000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    ] {
        let error = fail(source);
        assert!(
            matches!(error, TemplateError::TooMuch(_) | TemplateError::Failed(_)),
            "{source}: {error:?}"
        );
    }
}

#[test]
fn a_long_conversation_is_within_its_share() {
    let template = compile(
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'].strip() }}{% endfor %}",
    );
    let many: Vec<Value> =
        (0..5_000).map(|n| json!({"role": "user", "content": format!("message {n}")})).collect();
    assert!(render(&template, &Value::Array(many), None, true).is_ok());
    let long = json!([{"role": "user", "content": "<| 你好 ".repeat(400_000)}]);
    let prompt = render(&template, &long, None, true).unwrap();
    assert!(prompt.text().len() > 4_000_000);
}

#[test]
fn the_template_comes_from_its_own_file_then_from_the_config() {
    let tokenizer = small::glm4();
    let messages = json!([]);
    let of = |files: &Files, tools: Option<&Value>| {
        let template = files.template(&tokenizer);
        render(&template, &messages, tools, true).unwrap().text().to_owned()
    };
    let config = r#"{"bos_token": "<B>", "chat_template": "{{ bos_token }}one"}"#;
    let files = Files::default().with("tokenizer_config.json", config);
    assert_eq!(of(&files, None), "<B>one");
    let files = files.with("chat_template.jinja", "{{ bos_token }}two{{ add_generation_prompt }}");
    assert_eq!(of(&files, None), "<B>twoTrue");

    let named = r#"{"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]}"#;
    let files = Files::default().with("tokenizer_config.json", named);
    assert_eq!(of(&files, None), "plain");
    assert_eq!(of(&files, Some(&json!([{"type": "function"}]))), "tools");

    let none = Files::default().with("tokenizer_config.json", "{}");
    assert!(ChatTemplate::load(&none.assets(), &tokenizer).unwrap().is_none());
    let broken = Files::default().with("chat_template.jinja", "{% if %}");
    let error = ChatTemplate::load(&broken.assets(), &tokenizer).unwrap_err().to_string();
    assert!(error.starts_with("chat_template.jinja: chat template: "), "{error}");
}

#[test]
fn variables_of_the_client_do_not_replace_ours() {
    let template =
        compile("{{ enable_thinking }} {{ messages | length }} {{ add_generation_prompt }}");
    let extra = json!({"enable_thinking": false, "messages": [], "add_generation_prompt": "x"});
    let messages = json!([{"role": "user", "content": "hi"}]);
    let conversation = Conversation {
        messages: &messages,
        tools: None,
        add_generation_prompt: true,
        extra: extra.as_object().unwrap(),
        now: Duration::ZERO,
    };
    assert_eq!(template.render(&conversation).unwrap().text(), "False 1 True");
}
