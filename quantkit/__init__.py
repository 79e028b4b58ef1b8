"""quantkit: FP32 ONNX in, exact INT8 ONNX out."""
