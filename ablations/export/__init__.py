"""Write a trained network to a file that other programs read."""

# Each format with the extensions that its file may have.
FORMATS = {
    "safetensors": (".safetensors",),
    "torchvision": (".pth", ".pt", ".safetensors"),
    "timm": (".pth", ".pt", ".safetensors"),
    "official": (".pth", ".pt", ".safetensors"),
    "onnx": (".onnx",),
    "torch-export": (".pt2",),
}
