//! The inference protocol by gRPC: the service `inference.GRPCInferenceService`.
//!
//! Who asks is looked at, and a place is taken, before anything of a message is read, as by HTTP; whether the server lives and is ready
//! may be asked by everybody.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::keys::EntityKeys;
use super::messages::{
    Bounded, Choice, InferParameter, InferTensor, InferTensorContents, ModelInferRequest, ModelInferResponse,
    ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, SERVICE,
    ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest,
    ServerReadyResponse, TensorMetadata,
};
use super::request::{
    CLASSIFICATION, ENTITY_KEYS, InferAnswer, InferRequest, Parameter, SHARED_MEMORY, TENSORS_MAX,
};
use super::tensor::{Tensor, shown, unknown_datatype};
use crate::error::Error;
use crate::http::bind;
use crate::inference::Elements;
use crate::models;
use crate::serve::flight::recognised;
use crate::serve::flight::status::status;
use crate::serve::{Caller, Engine, Refusal, Server, check_address, grpc, tls};
use crate::spec::Topology;

/// Bytes of a request that has no tensors.
const QUESTION_BYTES_MAX: usize = 64 << 10;

impl Server {
    /// Serves the inference protocol by gRPC at `listen` as well, until the server ends, and says where that is. `topology` is the
    /// server's.
    ///
    /// # Errors
    /// [`Error::Configuration`] for an address that cannot be listened on or must not be without tokens, and for keys and
    /// certificates that cannot be read.
    pub async fn start_inference_grpc(
        &mut self,
        topology: &Topology,
        listen: SocketAddr,
    ) -> Result<SocketAddr, Error> {
        let tls = tls::of(topology)?;
        check_address(&self.engine, listen, tls.is_some())?;
        let (address, serving) = start(&self.engine, listen, tls, self.shutdown.clone()).await?;
        self.listeners.push(serving);
        Ok(address)
    }
}

/// Serves at `listen` until `stop`, and then until the last request has ended. Says where it listens.
pub(super) async fn start(
    engine: &Engine,
    listen: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    stop: CancellationToken,
) -> Result<(SocketAddr, JoinHandle<()>), Error> {
    let (listener, address) = bind("--inference-grpc", listen).await?;
    let services = grpc::server().add_service(InferenceService { engine: engine.clone() });
    let serving = tokio::spawn(async move {
        if let Err(error) = grpc::serve(services, listener, address, tls, stop).await {
            let error = crate::chain_of(&error);
            tracing::error!(error, "the inference protocol is not served by gRPC any more");
        }
    });
    Ok((address, serving))
}

/// The service. Cheap to clone.
#[derive(Clone)]
struct InferenceService {
    engine: Engine,
}

impl NamedService for InferenceService {
    const NAME: &'static str = SERVICE;
}

impl Service<http::Request<Body>> for InferenceService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let engine = self.engine.clone();
        Box::pin(async move { Ok(answered(engine, request).await) })
    }
}

/// The answer to a request of any method.
async fn answered(engine: Engine, request: http::Request<Body>) -> http::Response<Body> {
    let path = request.uri().path().to_owned();
    let method = path.rsplit('/').next().unwrap_or_default();
    let bytes_max = QUESTION_BYTES_MAX;
    if method == "ServerLive" {
        let live = |_: ServerLiveRequest| async { Ok(ServerLiveResponse { live: true }) };
        return unary(request, bytes_max, live).await;
    }
    if method == "ServerReady" {
        let ready = move |_: ServerReadyRequest| async move {
            Ok(ServerReadyResponse { ready: engine.is_ready_to_infer().await.is_ok() })
        };
        return unary(request, bytes_max, ready).await;
    }
    let headers = MetadataMap::from_headers(request.headers().clone());
    let caller = match recognised(&engine, &headers, request.extensions()) {
        Ok(caller) => caller,
        Err(refused) => return refused.into_http(),
    };
    match method {
        "ServerMetadata" => {
            let said = |_: ServerMetadataRequest| async { Ok(server_metadata()) };
            unary(request, bytes_max, said).await
        }
        "ModelReady" => {
            let ready = move |asked: ModelReadyRequest| async move {
                let ready = engine.served(&caller, &asked.name, &asked.version).await.is_ok();
                Ok(ModelReadyResponse { ready })
            };
            unary(request, bytes_max, ready).await
        }
        "ModelMetadata" => {
            let said = move |asked: ModelMetadataRequest| async move {
                model_metadata(&engine, &caller, &asked).await.map_err(status)
            };
            unary(request, bytes_max, said).await
        }
        "ModelInfer" => {
            let place = match engine.inference().enter() {
                Ok(place) => place,
                Err(refusal) => return status(refusal).into_http(),
            };
            let bytes_max = engine.inference().bytes_max();
            let (arrives, arrived) = oneshot::channel();
            let said = move |asked: Bounded| async move {
                // Nobody may wait for that any more.
                let _ = arrives.send(());
                let _place = place;
                infer(&engine, &caller, asked).await.map_err(status)
            };
            in_time(unary(request, bytes_max, said), arrived, super::ARRIVAL_TIME_MAX).await
        }
        _ => Status::unimplemented(format!("there is no method {}", shown(method))).into_http(),
    }
}

/// The answer to a request that tells `arrived` when all of it is there: whoever sends slowly keeps a place from others. How long
/// it takes from then on is bounded where it is answered.
async fn in_time(
    answer: impl Future<Output = http::Response<Body>>,
    arrived: oneshot::Receiver<()>,
    time_max: Duration,
) -> http::Response<Body> {
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        arrived = tokio::time::timeout(time_max, arrived) => match arrived {
            Ok(_) => answer.await,
            Err(_) => Status::deadline_exceeded("the request did not arrive in time").into_http(),
        },
    }
}

/// Reads the one message of a request, of at most `bytes_max` bytes, and answers it.
async fn unary<M, R, A>(
    request: http::Request<Body>,
    bytes_max: usize,
    answer: impl FnOnce(M) -> A + Send + 'static,
) -> http::Response<Body>
where
    M: Message + Default + 'static,
    R: Message + 'static,
    A: Future<Output = Result<R, Status>> + Send + 'static,
{
    let mut grpc = Grpc::new(ProstCodec::<R, M>::default()).max_decoding_message_size(bytes_max);
    grpc.unary(Method(Some(answer)), request).await
}

/// Answers one request.
struct Method<F>(Option<F>);

impl<F, M, R, A> UnaryService<M> for Method<F>
where
    F: FnOnce(M) -> A,
    R: 'static,
    A: Future<Output = Result<R, Status>> + Send + 'static,
{
    type Response = R;
    type Future = BoxFuture<Response<R>, Status>;

    fn call(&mut self, request: Request<M>) -> Self::Future {
        let answer = self.0.take().map(|answer| answer(request.into_inner()));
        Box::pin(async move {
            match answer {
                Some(answer) => answer.await.map(Response::new),
                None => Err(Status::internal("a request was answered twice")),
            }
        })
    }
}

fn server_metadata() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: super::NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        // What is beyond the protocol is of HTTP: here tensors may be bytes anyway.
        extensions: Vec::new(),
    }
}

async fn model_metadata(
    engine: &Engine,
    caller: &Caller,
    asked: &ModelMetadataRequest,
) -> Result<ModelMetadataResponse, Refusal> {
    let served = engine.served(caller, &asked.name, &asked.version).await?;
    let manifest = &served.bound.manifest;
    let tensor = |tensor: &models::Tensor| TensorMetadata {
        name: tensor.name.clone(),
        datatype: tensor.datatype.clone(),
        shape: super::dims(&tensor.shape).collect(),
    };
    Ok(ModelMetadataResponse {
        name: manifest.model.clone(),
        versions: served.versions.clone(),
        platform: super::PLATFORM.to_owned(),
        inputs: manifest.signature.inputs.iter().map(tensor).collect(),
        outputs: manifest.signature.outputs.iter().map(tensor).collect(),
    })
}

async fn infer(engine: &Engine, caller: &Caller, asked: Bounded) -> Result<ModelInferResponse, Refusal> {
    let asked = asked
        .whole()
        .ok_or_else(|| Refusal::Wrong(format!("a request has at most {TENSORS_MAX} tensors")))?;
    // Whoever sends lists is sent lists. Others may read bytes only, as tritonclient does.
    let is_raw = asked.inputs.iter().all(|input| input.contents.is_none());
    let answer = engine.infer(caller, request_of(asked)?).await?;
    Ok(message_of(answer, is_raw))
}

fn request_of(message: ModelInferRequest) -> Result<InferRequest, Refusal> {
    let ModelInferRequest { model_name, model_version, id, parameters, inputs, outputs, raw_input_contents } =
        message;
    let is_raw = !raw_input_contents.is_empty();
    if is_raw && raw_input_contents.len() != inputs.len() {
        let (raw, count) = (raw_input_contents.len(), inputs.len());
        return Err(Refusal::Wrong(format!("there are {raw} raw contents for {count} inputs")));
    }
    let entity_keys = match parameters.get(ENTITY_KEYS).map(|parameter| &parameter.choice) {
        None => None,
        Some(Some(Choice::String(text))) => Some(EntityKeys::from_text(text)?),
        Some(_) => return Err(Refusal::Wrong(format!("parameter `{ENTITY_KEYS}` is no text"))),
    };
    let mut tensors = Vec::with_capacity(inputs.len());
    for (at, input) in inputs.into_iter().enumerate() {
        refuse_unserved(&input.name, input.parameters.keys())?;
        tensors.push(match raw_input_contents.get(at) {
            Some(_) if input.contents.is_some() => {
                let name = shown(&input.name);
                return Err(Refusal::Wrong(format!("input `{name}` has contents beside raw ones")));
            }
            Some(raw) => Tensor::from_raw(&input.name, &input.datatype, &input.shape, raw)?,
            None => Tensor::new(
                &input.name,
                &input.shape,
                elements_of(&input.name, &input.datatype, input.contents)?,
            )?,
        });
    }
    let mut wanted = Vec::with_capacity(outputs.len());
    for output in outputs {
        refuse_unserved(&output.name, output.parameters.keys())?;
        wanted.push(output.name);
    }
    Ok(InferRequest {
        model: model_name,
        version: model_version,
        id,
        entity_keys,
        inputs: tensors,
        outputs: wanted,
    })
}

/// Refuses what the protocol's extensions know and this server does not.
fn refuse_unserved<'a>(name: &str, mut parameters: impl Iterator<Item = &'a String>) -> Result<(), Refusal> {
    match parameters.find(|parameter| [SHARED_MEMORY, CLASSIFICATION].contains(&parameter.as_str())) {
        Some(unserved) => {
            Err(Refusal::Wrong(format!("tensor `{}`: there is no `{unserved}` here", shown(name))))
        }
        None => Ok(()),
    }
}

fn elements_of(
    name: &str,
    datatype: &str,
    contents: Option<InferTensorContents>,
) -> Result<Elements, Refusal> {
    let contents = contents.unwrap_or_default();
    Ok(match datatype {
        "FP32" => Elements::Float32(contents.fp32s),
        "FP64" => Elements::Float64(contents.fp64s),
        "INT32" => Elements::Int32(contents.ints),
        "INT64" => Elements::Int64(contents.int64s),
        "BOOL" => Elements::Bool(contents.bools),
        "BYTES" => Elements::Bytes(contents.bytes),
        other => return Err(unknown_datatype(name, other)),
    })
}

fn message_of(answer: InferAnswer, is_raw: bool) -> ModelInferResponse {
    let parameters = answer.parameters.into_iter().map(|(name, value)| {
        let choice = match value {
            Parameter::Number(number) => Choice::Int64(number),
            Parameter::Text(text) => Choice::String(text),
        };
        (name, InferParameter { choice: Some(choice) })
    });
    let mut raw_output_contents = Vec::new();
    let outputs = answer.outputs.into_iter().map(|output| {
        if is_raw {
            raw_output_contents.push(Bytes::from(output.elements.to_raw()));
        }
        InferTensor {
            datatype: output.datatype().to_owned(),
            shape: output.shape.iter().map(|dim| i64::try_from(*dim).unwrap_or(i64::MAX)).collect(),
            contents: (!is_raw).then(|| contents_of(output.elements)),
            name: output.name,
            ..InferTensor::default()
        }
    });
    let outputs = outputs.collect();
    ModelInferResponse {
        model_name: answer.model,
        model_version: answer.version.to_string(),
        id: answer.id,
        parameters: parameters.collect(),
        outputs,
        raw_output_contents,
    }
}

fn contents_of(elements: Elements) -> InferTensorContents {
    let mut contents = InferTensorContents::default();
    match elements {
        Elements::Float32(values) => contents.fp32s = values,
        Elements::Float64(values) => contents.fp64s = values,
        Elements::Int32(values) => contents.ints = values,
        Elements::Int64(values) => contents.int64s = values,
        Elements::Bool(values) => contents.bools = values,
        Elements::Bytes(values) => contents.bytes = values,
    }
    contents
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tonic::Code;

    use super::super::messages::InferRequestedOutput;
    use super::*;

    fn input(datatype: &str, contents: Option<InferTensorContents>) -> InferTensor {
        InferTensor {
            name: "x".into(),
            datatype: datatype.into(),
            shape: vec![2],
            contents,
            ..InferTensor::default()
        }
    }

    fn request(inputs: Vec<InferTensor>, raw: &[&'static [u8]]) -> ModelInferRequest {
        ModelInferRequest {
            model_name: "late".into(),
            inputs,
            raw_input_contents: raw.iter().map(|raw| Bytes::from_static(raw)).collect(),
            ..ModelInferRequest::default()
        }
    }

    fn parameters(name: &str, choice: Choice) -> BTreeMap<String, InferParameter> {
        BTreeMap::from([(name.to_owned(), InferParameter { choice: Some(choice) })])
    }

    #[test]
    fn contents_and_raw_contents_are_the_same_tensors() {
        for elements in [
            Elements::Float32(vec![1.0, 2.0]),
            Elements::Float64(vec![1.0, 2.0]),
            Elements::Int32(vec![1, 2]),
            Elements::Int64(vec![1, 2]),
            Elements::Bool(vec![true, false]),
            Elements::Bytes(vec![b"a".to_vec(), vec![]]),
        ] {
            let datatype = elements.datatype();
            let typed = request(vec![input(datatype, Some(contents_of(elements.clone())))], &[]);
            assert_eq!(request_of(typed).unwrap().inputs[0].elements, elements);
            let mut raw = request(vec![input(datatype, None)], &[]);
            raw.raw_input_contents = vec![elements.to_raw().into()];
            assert_eq!(request_of(raw).unwrap().inputs[0].elements, elements);
        }
    }

    #[tokio::test]
    async fn a_request_has_to_arrive_in_time_and_its_answer_may_take_longer() {
        let late = |response: http::Response<Body>| {
            let status =
                response.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
            status == Some((Code::DeadlineExceeded as i32).to_string())
        };
        let (arrives, arrived) = oneshot::channel();
        assert!(late(in_time(std::future::pending(), arrived, Duration::ZERO).await));
        drop(arrives);
        let slow = || async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            http::Response::new(Body::empty())
        };
        let (arrives, arrived) = oneshot::channel();
        arrives.send(()).unwrap();
        assert!(!late(in_time(slow(), arrived, Duration::ZERO).await));
        // What cannot be read does not arrive, and is answered with that.
        let (arrives, arrived) = oneshot::channel();
        drop(arrives);
        assert!(!late(in_time(slow(), arrived, Duration::ZERO).await));
    }

    #[test]
    fn what_is_no_request_is_refused_with_the_reason() {
        let floats = || Some(InferTensorContents { fp32s: vec![1.0, 2.0], ..InferTensorContents::default() });
        let mut shared = request(vec![input("FP32", floats())], &[]);
        shared.inputs[0].parameters = parameters(SHARED_MEMORY, Choice::String("r".into()));
        let mut classes = request(vec![input("FP32", floats())], &[]);
        classes.outputs = vec![InferRequestedOutput {
            name: "y".into(),
            parameters: parameters(CLASSIFICATION, Choice::Int64(3)),
        }];
        let mut keys = request(vec![], &[]);
        keys.parameters = parameters(ENTITY_KEYS, Choice::Bool(true));
        for (asked, what) in [
            (request(vec![input("FP32", floats())], &[&[0; 8]]), "contents beside raw ones"),
            (request(vec![input("FP32", None)], &[&[0; 8], &[0; 8]]), "2 raw contents for 1 inputs"),
            (request(vec![input("FP32", None)], &[&[0; 7]]), "not whole"),
            (request(vec![input("FP32", None)], &[]), "does not go with 0 elements"),
            (request(vec![input("FP64", floats())], &[]), "does not go with 0 elements"),
            (request(vec![input("FP16", None)], &[]), "`FP16` is not known"),
            (shared, "no `shared_memory_region`"),
            (classes, "no `classification`"),
            (keys, "`entity_keys` is no text"),
        ] {
            let refused = request_of(asked).unwrap_err().to_string();
            assert!(refused.contains(what), "{refused}");
        }
    }
}
