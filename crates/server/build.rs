//! Makes the gRPC service between regions. Its messages are Rust types, so there is no file to
//! compile and no compiler to install; `docs/formats.md` has them byte by byte.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let exchange = Method::builder()
        .name("exchange")
        .route_name("Exchange")
        .input_type("isthmus_replication::frame::Frame")
        .output_type("isthmus_replication::frame::Frame")
        .codec_path("tonic_prost::ProstCodec")
        .client_streaming()
        .server_streaming()
        .build();
    let call = Method::builder()
        .name("call")
        .route_name("Call")
        .input_type("crate::peer::call::Call")
        .output_type("crate::peer::call::Reply")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let pull = Method::builder()
        .name("pull")
        .route_name("Pull")
        .input_type("isthmus_replication::frame::Frame")
        .output_type("isthmus_replication::frame::Frame")
        .codec_path("tonic_prost::ProstCodec")
        .client_streaming()
        .server_streaming()
        .build();
    let answer = Method::builder()
        .name("answer")
        .route_name("Answer")
        .input_type("crate::peer::call::Answering")
        .output_type("crate::peer::call::Asking")
        .codec_path("tonic_prost::ProstCodec")
        .client_streaming()
        .server_streaming()
        .build();
    let service = Service::builder().name("Peer").package("isthmus.peer.v1");
    let service = service.method(exchange).method(call).method(pull).method(answer);
    Builder::new().compile(&[service.build()]);
}
