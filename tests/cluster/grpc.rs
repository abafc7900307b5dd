//! Does the gRPC front door answer as the HTTP one does?

use glint_proto::v1::{
    ChatMessage, ChatRequest, ModelsRequest, Options, inference_client::InferenceClient,
    inference_response::Event,
};
use serde_json::json;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{Cluster, block_on};

#[test]
fn chat_over_grpc_says_what_chat_over_http_says() {
    // A port of one's own: asked of the system just before, for `glint up` prints its HTTP address alone.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cluster =
        Cluster::start(&["--model=tiny", "--compute=f32", &format!("--grpc-port={port}")]);
    let body = json!({
        "model": "tiny", "temperature": 0, "max_tokens": 12,
        "messages": [{"role": "user", "content": "hello"}],
    });
    let (status, http) = cluster.post("/v1/chat/completions", &body);
    assert_eq!(status, 200, "{http}");

    let (text, reason, usage) = block_on(async {
        let address = format!("http://127.0.0.1:{port}");
        let channel = tonic::transport::Endpoint::from_shared(address.clone()).unwrap();
        let mut health = HealthClient::new(channel.connect().await.unwrap());
        let health = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert_eq!(health.status, 1, "SERVING");
        let mut client = InferenceClient::connect(address).await.unwrap();
        let models = client.models(ModelsRequest {}).await.unwrap().into_inner();
        assert_eq!(models.models[0].name, "tiny");
        let message =
            ChatMessage { role: "user".into(), content: "hello".into(), ..Default::default() };
        let options =
            Options { temperature: Some(0.0), max_tokens: Some(12), ..Default::default() };
        let request =
            ChatRequest { model: "tiny".into(), messages: vec![message], options: Some(options) };
        let mut stream = client.chat(request).await.unwrap().into_inner();
        let (mut text, mut reason, mut usage) = (String::new(), String::new(), None);
        while let Some(response) = stream.message().await.unwrap() {
            match response.event.expect("each response has an event") {
                Event::Delta(delta) => {
                    text.push_str(&delta.text);
                    reason.push_str(&delta.finish_reason);
                }
                Event::Usage(last) => usage = Some(last),
            }
        }
        (text, reason, usage.expect("usage comes last"))
    });
    assert_eq!(http["choices"][0]["message"]["content"], text);
    assert_eq!(http["choices"][0]["finish_reason"], reason);
    assert_eq!(http["usage"]["prompt_tokens"], usage.prompt_tokens);
}
