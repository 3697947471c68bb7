"""From torch to files that run without it: ONNX and OpenVINO, in float32, with half weights or in int8."""
