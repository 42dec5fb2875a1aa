"""ONNX operators each version of TensorRT has an importer for.

Sources: onnx-tensorrt, docs/operators.md of 8.5 and 10.15 and docs/Changelog.md in between. For those that no page dates
(CastLike, Gelu, Hardmax, Mish) the first 10.x is taken. The table of 11 is held against the parser of TensorRT-RTX in the tests.
"""

from __future__ import annotations

from toolchain.tensorrt.versions import Version

_WORDS = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat Constant
ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand
EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
GridSample GRU HardSigmoid HardSwish Identity If ImageScaler InstanceNormalization IsNaN LeakyRelu Less LessOrEqual Log
LogSoftmax Loop LpNormalization LpPool LRN LSTM MatMul Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg
NonMaxSuppression NonZero Not OneHot Or Pad ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal RandomNormalLike
RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RNN RoiAlign Round ScaledTanh Scan Scatter
ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt
Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
SINCE_8_5 = frozenset(_WORDS.split())
ADDED: dict[tuple[int, int], tuple[str, ...]] = {
    (8, 6): ("GroupNormalization", "IsInf", "LayerNormalization"),
    (10, 0): ("CastLike", "Gelu", "Hardmax", "Mish"),
    (10, 1): ("DeformConv",),
    (10, 4): ("BlackmanWindow", "HammingWindow", "HannWindow"),
    (10, 5): ("STFT",),
    (10, 14): ("Attention",),
    (10, 15): ("RMSNormalization", "RotaryEmbedding", "TensorScatter"),
    (11, 0): ("Swish",),
}
INTEGER = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")  # in no version: see rule H4


def operators(version: Version) -> frozenset[str]:
    """Names of ONNX's own operators that the version's parser knows."""
    added = (name for since, names in ADDED.items() if since <= version.number for name in names)
    return SINCE_8_5.union(added)


PLUGINS = ("EfficientNMS_TRT", "BatchedNMS_TRT", "BatchedNMSDynamic_TRT")  # of TensorRT's own plugin library, known by name
