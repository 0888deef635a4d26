//! The messages of `inference.GRPCInferenceService`, with the numbers of the protocol's definition.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, skip_field};
use prost::{DecodeError, Message, Oneof};

use super::request::TENSORS_MAX;

/// The name of the service.
pub(super) const SERVICE: &str = "inference.GRPCInferenceService";

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServerLiveRequest {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServerLiveResponse {
    #[prost(bool, tag = "1")]
    pub(super) live: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServerReadyRequest {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServerReadyResponse {
    #[prost(bool, tag = "1")]
    pub(super) ready: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelReadyRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelReadyResponse {
    #[prost(bool, tag = "1")]
    pub(super) ready: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServerMetadataRequest {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServerMetadataResponse {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) extensions: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelMetadataRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) datatype: String,
    /// -1 where a dimension is free.
    #[prost(int64, repeated, tag = "3")]
    pub(super) shape: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelMetadataResponse {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) versions: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) platform: String,
    #[prost(message, repeated, tag = "4")]
    pub(super) inputs: Vec<TensorMetadata>,
    #[prost(message, repeated, tag = "5")]
    pub(super) outputs: Vec<TensorMetadata>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct InferParameter {
    #[prost(oneof = "Choice", tags = "1, 2, 3, 4, 5")]
    pub(super) choice: Option<Choice>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Choice {
    #[prost(bool, tag = "1")]
    Bool(bool),
    #[prost(int64, tag = "2")]
    Int64(i64),
    #[prost(string, tag = "3")]
    String(String),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(uint64, tag = "5")]
    Uint64(u64),
}

/// The elements of a tensor; one of the lists is used.
#[derive(Clone, PartialEq, Message)]
pub(super) struct InferTensorContents {
    #[prost(bool, repeated, tag = "1")]
    pub(super) bools: Vec<bool>,
    #[prost(int32, repeated, tag = "2")]
    pub(super) ints: Vec<i32>,
    #[prost(int64, repeated, tag = "3")]
    pub(super) int64s: Vec<i64>,
    #[prost(uint32, repeated, tag = "4")]
    pub(super) uints: Vec<u32>,
    #[prost(uint64, repeated, tag = "5")]
    pub(super) uint64s: Vec<u64>,
    #[prost(float, repeated, tag = "6")]
    pub(super) fp32s: Vec<f32>,
    #[prost(double, repeated, tag = "7")]
    pub(super) fp64s: Vec<f64>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub(super) bytes: Vec<Vec<u8>>,
}

/// A tensor of a request or of an answer.
#[derive(Clone, PartialEq, Message)]
pub(super) struct InferTensor {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub(super) shape: Vec<i64>,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(super) parameters: BTreeMap<String, InferParameter>,
    #[prost(message, optional, tag = "5")]
    pub(super) contents: Option<InferTensorContents>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct InferRequestedOutput {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(super) parameters: BTreeMap<String, InferParameter>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelInferRequest {
    #[prost(string, tag = "1")]
    pub(super) model_name: String,
    #[prost(string, tag = "2")]
    pub(super) model_version: String,
    #[prost(string, tag = "3")]
    pub(super) id: String,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(super) parameters: BTreeMap<String, InferParameter>,
    #[prost(message, repeated, tag = "5")]
    pub(super) inputs: Vec<InferTensor>,
    #[prost(message, repeated, tag = "6")]
    pub(super) outputs: Vec<InferRequestedOutput>,
    /// Little-endian elements, one for each input; or none.
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub(super) raw_input_contents: Vec<Bytes>,
}

/// Of [`ModelInferRequest`], the first of the fields that there may be many of: inputs, outputs, raw contents.
const FIRST_OF_MANY: u32 = 5;

/// A request as it arrives. No more tensors are made of it than it may have: two bytes are enough for one, which in memory has
/// hundreds.
#[derive(Debug, Default)]
pub(super) struct Bounded {
    request: ModelInferRequest,
    /// How many inputs, outputs and raw contents there are.
    counts: [usize; 3],
}

impl Bounded {
    /// The request; `None` if it has more tensors than one may have.
    pub(super) fn whole(self) -> Option<ModelInferRequest> {
        let is_whole = self.counts.iter().all(|count| *count <= TENSORS_MAX);
        is_whole.then_some(self.request)
    }
}

impl Message for Bounded {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.request.encode_raw(buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        let place = tag.checked_sub(FIRST_OF_MANY).and_then(|place| usize::try_from(place).ok());
        if let Some(count) = place.and_then(|place| self.counts.get_mut(place)) {
            *count += 1;
            if *count > TENSORS_MAX {
                return skip_field(wire_type, tag, buf, ctx);
            }
        }
        self.request.merge_field(tag, wire_type, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        self.request.encoded_len()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelInferResponse {
    #[prost(string, tag = "1")]
    pub(super) model_name: String,
    #[prost(string, tag = "2")]
    pub(super) model_version: String,
    #[prost(string, tag = "3")]
    pub(super) id: String,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(super) parameters: BTreeMap<String, InferParameter>,
    #[prost(message, repeated, tag = "5")]
    pub(super) outputs: Vec<InferTensor>,
    /// Little-endian elements, one for each output; or none.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub(super) raw_output_contents: Vec<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are written by hand from the definition: the number of a field times eight, and how it is written.
    #[test]
    fn a_request_has_the_numbers_of_the_definition() {
        let parameter = |choice| InferParameter { choice: Some(choice) };
        let request = ModelInferRequest {
            model_name: "m".into(),
            model_version: "3".into(),
            id: "i".into(),
            parameters: BTreeMap::from([("k".to_owned(), parameter(Choice::String("v".into())))]),
            inputs: vec![InferTensor {
                name: "x".into(),
                datatype: "FP32".into(),
                shape: vec![1, 2],
                parameters: BTreeMap::from([("b".to_owned(), parameter(Choice::Bool(true)))]),
                contents: Some(InferTensorContents { fp32s: vec![1.0, 0.0], ..Default::default() }),
            }],
            outputs: vec![InferRequestedOutput { name: "y".into(), parameters: BTreeMap::new() }],
            raw_input_contents: vec![Bytes::from_static(&[9])],
        };
        let bytes = hex::encode(request.encode_to_vec());
        let input = concat!(
            "0a0178",       // name = 1
            "120446503332", // datatype = 2
            "1a020102",     // shape = 3, packed
            "2207",
            "0a0162",
            "12020801", // parameters = 4: b, { bool_param = 1 }
            "2a0a",
            "32080000803f00000000", // contents = 5: { fp32_contents = 6, packed }
        );
        let length = format!("{:02x}", input.len() / 2);
        let expected =
            ["0a016d1201331a01692208", "0a016b12031a0176", "2a", &length, input, "32030a0179", "3a0109"]
                .concat();
        assert_eq!(bytes, expected);
        assert_eq!(ModelInferRequest::decode(&request.encode_to_vec()[..]).unwrap(), request);
    }

    #[test]
    fn no_more_tensors_are_made_than_a_request_may_have() {
        // Fields 5, 6 and 7 with nothing in them.
        for (field, count, is_whole) in [
            (0x2a, TENSORS_MAX, true),
            (0x2a, TENSORS_MAX + 1, false),
            (0x32, 100_000, false),
            (0x3a, 100_000, false),
        ] {
            let bytes: Vec<u8> = [field, 0].repeat(count);
            let read = Bounded::decode(&bytes[..]).unwrap();
            let made = read.request.inputs.len()
                + read.request.outputs.len()
                + read.request.raw_input_contents.len();
            assert_eq!(made, TENSORS_MAX, "{field:x}");
            assert_eq!(read.whole().is_some(), is_whole, "{field:x} {count}");
        }
        let request = ModelInferRequest { model_name: "m".into(), id: "i".into(), ..Default::default() };
        let read = Bounded::decode(&request.encode_to_vec()[..]).unwrap();
        assert_eq!(read.whole(), Some(request));
    }

    #[test]
    fn elements_and_parameters_of_every_type_have_the_numbers_of_the_definition() {
        let contents = InferTensorContents {
            bools: vec![true],
            ints: vec![1],
            int64s: vec![1],
            uints: vec![1],
            uint64s: vec![1],
            fp32s: vec![1.0],
            fp64s: vec![1.0],
            bytes: vec![vec![7]],
        };
        let expected = "0a0101".to_owned()
            + "120101"
            + "1a0101"
            + "220101"
            + "2a0101"
            + "32040000803f"
            + "3a08000000000000f03f"
            + "420107";
        assert_eq!(hex::encode(contents.encode_to_vec()), expected);
        let parameter = |choice| hex::encode(InferParameter { choice: Some(choice) }.encode_to_vec());
        assert_eq!(parameter(Choice::Bool(true)), "0801");
        assert_eq!(parameter(Choice::Int64(1)), "1001");
        assert_eq!(parameter(Choice::String("v".into())), "1a0176");
        assert_eq!(parameter(Choice::Double(1.0)), "21000000000000f03f");
        assert_eq!(parameter(Choice::Uint64(1)), "2801");
    }

    #[test]
    fn answers_have_the_numbers_of_the_definition() {
        let response = ModelInferResponse {
            model_name: "m".into(),
            model_version: "3".into(),
            outputs: vec![InferTensor { name: "y".into(), ..Default::default() }],
            raw_output_contents: vec![Bytes::from_static(&[9])],
            ..Default::default()
        };
        assert_eq!(hex::encode(response.encode_to_vec()), "0a016d1201332a030a0179320109");
        let metadata = ModelMetadataResponse {
            name: "m".into(),
            versions: vec!["3".into()],
            platform: "p".into(),
            inputs: vec![TensorMetadata { name: "x".into(), datatype: "BOOL".into(), shape: vec![-1] }],
            outputs: vec![TensorMetadata::default()],
        };
        let input = "0a0178".to_owned() + "1204424f4f4c" + "1a0affffffffffffffffff01";
        let expected = format!("0a016d1201331a017022{:02x}{input}2a00", input.len() / 2);
        assert_eq!(hex::encode(metadata.encode_to_vec()), expected);
        let server =
            ServerMetadataResponse { name: "n".into(), version: "v".into(), extensions: vec!["e".into()] };
        assert_eq!(hex::encode(server.encode_to_vec()), "0a016e1201761a0165");
    }
}
