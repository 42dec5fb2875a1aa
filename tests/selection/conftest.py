from tests.quantization.conftest import picture_files  # noqa: F401 - a fixture
