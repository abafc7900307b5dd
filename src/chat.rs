//! How does one talk to a cluster from a terminal?

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// Longest line of the answer's stream; far beyond what one token needs.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Flags of `glint chat`.
#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// The router.
    #[arg(long, env = "GLINT_URL", default_value = "http://127.0.0.1:8080")]
    url: String,

    /// Model to ask [default: the first that the router lists].
    #[arg(long)]
    model: Option<String>,

    /// System message.
    #[arg(long)]
    system: Option<String>,

    /// Sampling temperature [default: the model's].
    #[arg(long)]
    temperature: Option<f32>,

    /// Longest answer, in tokens.
    #[arg(long)]
    max_tokens: Option<u32>,

    /// Ask this and end; without it, a conversation: one line is one message, /reset forgets, Ctrl-D ends.
    message: Vec<String>,
}

/// Runs the conversation.
///
/// # Errors
///
/// The router cannot be reached or refuses.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let client = reqwest::Client::new();
    let url = config.url.trim_end_matches('/');
    if !reqwest::Url::parse(url).is_ok_and(|url| url.scheme() == "http") {
        bail!("--url {url} is no address of a router: write it like http://127.0.0.1:8080");
    }
    let model = match &config.model {
        Some(model) => model.clone(),
        None => first_model(&client, url).await?,
    };
    let system = config.system.iter().map(|text| json!({"role": "system", "content": text}));
    let mut messages: Vec<Value> = system.collect();
    let system_messages = messages.len();

    if !config.message.is_empty() {
        messages.push(json!({"role": "user", "content": config.message.join(" ")}));
        answer(&client, url, &config, &model, &messages).await?;
        return Ok(());
    }
    let terminal = std::io::stdin().is_terminal();
    loop {
        if terminal {
            write!(std::io::stderr(), "> ")?;
        }
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map(|bytes| (bytes > 0).then_some(line))
        });
        let Some(line) = line.await?? else { return Ok(()) };
        match line.trim() {
            "" => {}
            "/reset" => messages.truncate(system_messages),
            text => {
                messages.push(json!({"role": "user", "content": text}));
                match answer(&client, url, &config, &model, &messages).await {
                    Ok(text) => messages.push(json!({"role": "assistant", "content": text})),
                    // The conversation goes on: the question is taken back, so that it can be put again.
                    Err(error) => {
                        messages.pop();
                        writeln!(std::io::stderr(), "error: {error:#}")?;
                    }
                }
            }
        }
    }
}

async fn first_model(client: &reqwest::Client, url: &str) -> anyhow::Result<String> {
    let response = client
        .get(format!("{url}/v1/models"))
        .send()
        .await
        .with_context(|| format!("cannot reach {url}, start a cluster with `glint up`"))?;
    let models: Value = checked(response).await?.json().await?;
    let name = models["data"][0]["id"].as_str().context("the router serves no model yet")?;
    Ok(name.to_owned())
}

/// Asks, prints the answer as it comes, and returns it.
async fn answer(
    client: &reqwest::Client,
    url: &str,
    config: &Config,
    model: &str,
    messages: &[Value],
) -> anyhow::Result<String> {
    let mut body = json!({"model": model, "messages": messages, "stream": true});
    if let Some(temperature) = config.temperature {
        body["temperature"] = json!(temperature);
    }
    if let Some(max_tokens) = config.max_tokens {
        body["max_tokens"] = json!(max_tokens);
    }
    let response = client
        .post(format!("{url}/v1/chat/completions"))
        .json(&body)
        .send()
        .await
        .with_context(|| format!("cannot reach {url}"))?;
    let mut response = checked(response).await?;
    let mut pending = Vec::new();
    let mut text = String::new();
    let mut done = false;
    while let Some(chunk) = response.chunk().await.context("the answer broke off")? {
        pending.extend_from_slice(&chunk);
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            match event(&line)? {
                Event::Nothing => {}
                Event::Done => done = true,
                Event::Text(piece) => {
                    let mut out = std::io::stdout().lock();
                    out.write_all(piece.as_bytes())?;
                    out.flush()?;
                    text.push_str(&piece);
                }
            }
        }
        if pending.len() > LINE_BYTES_MAX {
            bail!("the router sent a line of more than {LINE_BYTES_MAX} bytes");
        }
    }
    writeln!(std::io::stdout())?;
    if !done {
        bail!("the answer broke off");
    }
    Ok(text)
}

/// What one line of a server-sent event stream says.
#[derive(Debug, PartialEq)]
enum Event {
    Nothing,
    Text(String),
    Done,
}

fn event(line: &[u8]) -> anyhow::Result<Event> {
    let line = std::str::from_utf8(line).context("the router sent no UTF-8")?.trim();
    let Some(data) = line.strip_prefix("data:") else {
        return Ok(Event::Nothing);
    };
    let data = data.trim();
    if data == "[DONE]" {
        return Ok(Event::Done);
    }
    let value: Value = serde_json::from_str(data).context("the router sent no JSON")?;
    if let Some(message) = value["error"]["message"].as_str() {
        bail!("{message}");
    }
    let text = value["choices"][0]["delta"]["content"].as_str();
    Ok(text.map_or(Event::Nothing, |text| Event::Text(text.to_owned())))
}

/// Turns a refusal into its sentence.
async fn checked(response: reqwest::Response) -> anyhow::Result<reqwest::Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body: Value = response.json().await.unwrap_or_default();
    match body["error"]["message"].as_str() {
        Some(message) => bail!("{message}"),
        None => bail!("the router answered {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_the_stream_is_understood() {
        let text = |s: &str| event(s.as_bytes());
        assert_eq!(text(": keep-alive\n").unwrap(), Event::Nothing);
        assert_eq!(text("\n").unwrap(), Event::Nothing);
        assert_eq!(text("data: [DONE]\r\n").unwrap(), Event::Done);
        let delta = r#"data: {"choices":[{"delta":{"content":"é"}}]}"#;
        assert_eq!(text(delta).unwrap(), Event::Text("é".into()));
        let usage = r#"data: {"choices":[],"usage":{"prompt_tokens":1}}"#;
        assert_eq!(text(usage).unwrap(), Event::Nothing);
        let error = r#"data: {"error":{"message":"the group failed"}}"#;
        assert_eq!(text(error).unwrap_err().to_string(), "the group failed");
        assert!(event(b"data: \xff").is_err());
    }
}
