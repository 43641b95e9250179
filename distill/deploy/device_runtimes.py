"""Facts about runtimes of phones, boards and accelerators that cannot run here, from what their vendors publish."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceRuntime:
    """What a runtime accepts of an ONNX graph.

    Attributes:
        name: key of DEVICE_RUNTIMES.
        title: the runtime's name in text.
        operators: ONNX operators that it takes, with the domain if it is not ONNX's ("com.microsoft:Gelu"); None if
            no list is published. A name says nothing about types and attributes, which the runtime may restrict.
        max_rank: maximum number of dimensions of a tensor; None if it is not published.
        uint8_input: whether the graph may start from uint8 pixels.
        free_batch: whether the size of the batch may stay open.
        state_multiple: number that the width (last dimension) of a state has to be a multiple of.
        signed_quantization: whether quantization has to be signed, with zero points of 0.
        needs: what the conversion needs.
        source: documents and versions that the facts are from.
    """

    name: str
    title: str
    operators: frozenset[str] | None
    max_rank: int | None
    uint8_input: bool
    free_batch: bool
    state_multiple: int
    signed_quantization: bool
    needs: str
    source: str


def names(text: str) -> frozenset[str]:
    """Return the operators named in a text, separated by white space."""
    return frozenset(text.split())


TENSORRT = DeviceRuntime(
    name="tensorrt",
    title="TensorRT",
    operators=names(
        """
        Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
        BlackmanWindow Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh
        CumSum DeformConv DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten
        Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
        GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity
        If ImageScaler InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log
        LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul
        Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad ParametricSoftplus Pow QuantizeLinear RMSNormalization
        RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2
        ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
        Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT ScaledTanh Scan Scatter ScatterElements
        ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split
        Sqrt Squeeze Sub Sum Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample
        Where Xor
        """
    ),
    max_rank=8,
    uint8_input=True,
    free_batch=True,
    state_multiple=1,
    signed_quantization=True,
    needs=(
        "trtexec or the Python package, on the GPU that will run the engine; a range of shapes for a free batch. "
        "Quantize with NVIDIA's ModelOpt; the application passes each state on to the next frame."
    ),
    source=(
        "onnx-tensorrt, docs/operators.md for TensorRT 10.15; nvinfer1::Dims64::MAX_DIMS of the C++ API, TensorRT "
        "10.2"
    ),
)

CORE_ML = DeviceRuntime(
    name="coreml",
    title="Core ML",
    operators=names(
        """
        Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization Cast
        Ceil Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear
        Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements Gelu Gemm
        GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish
        Identity If InstanceNormalization IsNaN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
        Loop MatMul Max MaxPool Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow
        QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean
        ReduceMin ReduceSum Relu Reshape Resize Round STFT ScatterElements ScatterND Selu Shape Sigmoid Sign Sin
        Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu
        Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
        """
    ),
    max_rank=5,
    uint8_input=False,
    free_batch=False,
    state_multiple=32,
    signed_quantization=False,
    needs=(
        "coremltools, which converts the PyTorch network and reads no ONNX; predictions need macOS or iOS. Fixed "
        "shapes, because states cannot be flexible; pixels as an image input or as floats; states as ct.StateType "
        "(iOS 18) or as inputs and outputs."
    ),
    source=(
        "coremltools 9.0: operators of its PyTorch frontend, translated to ONNX names by this project, input "
        "types of ct.TensorType and the limit of rank 5; apple/coremltools issues 2537 (flexible states) and 2631 "
        "(state width on the Neural Engine, one user's report)"
    ),
)

QNN = DeviceRuntime(
    name="qnn",
    title="QNN",
    operators=names(
        """
        Abs Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast CastLike Ceil Clip Concat Conv
        ConvInteger ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Einsum Elu
        Equal Exp Expand Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool
        Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Identity If InstanceNormalization
        Inverse IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
        LpPool MatMul MatMulInteger Max MaxPool Mean Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu
        Pad Pow QLinearMatMul QuantizeLinear RMSNormalization RandomNormalLike RandomUniformLike Range Reciprocal
        ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize RoiAlign
        RotaryEmbedding Round STFT ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Slice Softmax Softplus
        SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample
        Where Xor com.microsoft:DequantizeLinear com.microsoft:FusedMatMul com.microsoft:GatherBlockQuantized
        com.microsoft:Gelu com.microsoft:GroupQueryAttention com.microsoft:MatMulNBits com.microsoft:QuantizeLinear
        com.microsoft:QuickGelu com.microsoft:RMSNormalization com.microsoft:RotaryEmbedding
        com.microsoft:SimplifiedLayerNormalization
        """
    ),
    max_rank=5,
    uint8_input=False,
    free_batch=False,
    state_multiple=1,
    signed_quantization=False,
    needs=(
        "onnxruntime-qnn on Windows or Linux for ARM64, or its Maven package on Android; shapes fixed beforehand. "
        "The NPU (HTP backend) takes fp16, or INT8 calibrated on real frames; the cast of uint8 pixels to float "
        "belongs before the graph; the application passes each state on to the next frame."
    ),
    source=(
        "onnxruntime-qnn, docs/execution_providers/QNN-ExecutionProvider.md for QNN EP 2.5.0 (QAIRT SDK 2.49.40); "
        "pytorch/executorch pull request 22253 (the HTP backend rejects ranks above 5); "
        "DISABLED_TestCastUInt8ToFloatHTP in ONNX Runtime's cast_test.cc (wrong values with QNN SDK 2.35.0)"
    ),
)

RKNN = DeviceRuntime(
    name="rknn",
    title="RKNN",
    operators=names(
        """
        Add And ArgMax ArgMin AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv
        ConvTranspose Cos DepthToSpace DequantizeLinear Div Dropout Elu Equal Erf Exp Expand EyeLike Flatten Floor
        GRU Gather GatherElements Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish
        Identity If InstanceNormalization LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
        LpNormalization MatMul Max MaxPool MaxRoiPool MaxUnpool MeanVarianceNormalization Min Mish Mod Mul PRelu Pad
        Pow QuantizeLinear ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize ReverseSequence RoiAlign
        ScatterND Shape Sigmoid Sin Size Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Tanh
        ThresholdedRelu Tile Transpose Unsqueeze Where
        """
    ),
    max_rank=16,
    uint8_input=False,
    free_batch=False,
    state_multiple=1,
    signed_quantization=False,
    needs=(
        "rknn-toolkit2 on a Linux PC (x86-64 or ARM64); a float input and a fixed batch of 1, which LogSoftmax "
        "and Slice need; a data set of frames and states for INT8. The application passes each state on to the "
        "next frame."
    ),
    source=(
        "rknn-toolkit2, doc/RKNNToolKit2_OP_Support-v2.1.0.md; RKNN_MAX_DIMS of rknn_api.h; "
        "airockchip/rknn-toolkit2 issue 526 (uint8 inputs fail, runtime 2.3.2)"
    ),
)

HAILO = DeviceRuntime(
    name="hailo",
    title="Hailo",
    operators=None,
    max_rank=None,
    uint8_input=False,
    free_batch=False,
    state_multiple=1,
    signed_quantization=False,
    needs=(
        "the Hailo Dataflow Compiler (Linux, from Hailo's developer zone after registration), fixed shapes, and "
        "frames and states to calibrate on: it always quantizes. Parts that the parser rejects run on the CPU; "
        "the application passes each state on to the next frame."
    ),
    source=(
        "hailo_model_zoo, docs/GETTING_STARTED.rst for Dataflow Compiler 5.2.0, and its issue 98 (not all "
        "operators are supported); the list of operators is in the Dataflow Compiler's guide, which is not "
        "public. A float input and a fixed batch are this project's assumption, as all published examples have "
        "them"
    ),
)

DEVICE_RUNTIMES: Mapping[str, DeviceRuntime] = {
    runtime.name: runtime for runtime in (TENSORRT, CORE_ML, QNN, RKNN, HAILO)
}
"""Runtimes by name, in the order of reports."""
