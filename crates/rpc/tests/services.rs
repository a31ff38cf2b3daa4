//! What stands beside the services: health, reflection, and an orderly end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    Setup, ask_digits,
    device::{Hold, Stopping},
    image, seven, start, start_with, until,
};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

async fn health(node: &common::Node, service: &str) -> Result<ServingStatus, Code> {
    let mut client = HealthClient::new(node.channel().await);
    let asked = HealthCheckRequest { service: service.into() };
    client
        .check(asked)
        .await
        .map(|answer| answer.into_inner().status())
        .map_err(|status| status.code())
}

const SERVICES: [&str; 7] = [
    "",
    "hyperion.v1.InferenceService",
    "hyperion.v1.LogService",
    "hyperion.v1.WorkerService",
    "inference.GRPCInferenceService",
    "hyperion.model.digits",
    "hyperion.model.letters",
];

#[tokio::test(flavor = "multi_thread")]
async fn health_answers_for_services_and_models() {
    let node = start().await;
    for service in SERVICES {
        // The first report may still be on its way.
        for _ in 0..1000 {
            if health(&node, service).await == Ok(ServingStatus::Serving) {
                break;
            }
        }
        assert_eq!(health(&node, service).await, Ok(ServingStatus::Serving), "{service}");
    }
    assert_eq!(health(&node, "hyperion.model.nobody").await, Err(Code::NotFound));

    let mut watcher = HealthClient::new(node.channel().await);
    let asked = HealthCheckRequest { service: "hyperion.model.digits".into() };
    let mut seen = watcher.watch(asked).await.unwrap().into_inner();
    assert_eq!(seen.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    node.shutdown.drain.cancel();
    assert_eq!(seen.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    for service in SERVICES {
        assert_eq!(health(&node, service).await, Ok(ServingStatus::NotServing), "{service}");
    }
    // Draining is a word to balancers; whoever still comes is served.
    node.client().await.inference.infer(ask_digits(seven())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_answers_in_both_versions() {
    let node = start().await;
    let want = [
        "grpc.health.v1.Health",
        "hyperion.v1.InferenceService",
        "hyperion.v1.LogService",
        "hyperion.v1.WorkerService",
        "inference.GRPCInferenceService",
    ];

    let mut client =
        v1::server_reflection_client::ServerReflectionClient::new(node.channel().await);
    let asked = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([asked])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!()
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(want.iter().all(|name| names.iter().any(|have| have == name)), "{names:?}");

    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(node.channel().await);
    let symbol = "inference.GRPCInferenceService.ModelInfer".to_owned();
    let asked = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(symbol),
        ),
    };
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([asked])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(
        answer,
        v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_calls_under_way_end() {
    let hold = Hold::default();
    let mut node =
        start_with(Setup { devices: vec![Box::new(Stopping::new(&hold))], ..Setup::default() })
            .await;
    hold.close();
    let mut client = node.client().await;
    let call = tokio::spawn(async move { client.inference.infer(ask_digits(image(1))).await });
    until("the device stands still", || hold.is_waiting()).await;

    node.shutdown.stop.cancel();
    until("nobody is let in any more", || std::net::TcpStream::connect(node.grpc).is_err()).await;
    hold.open();
    call.await.unwrap().expect("the call that was under way");
    (&mut node.served).await.unwrap();
}
