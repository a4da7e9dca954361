"""FastAPI under uvicorn with uvloop and httptools, one worker."""

import fastapi
from fastapi.responses import PlainTextResponse

app = fastapi.FastAPI()


@app.get("/hello", response_class=PlainTextResponse)
async def hello() -> str:
    return "Hello, World!"


if __name__ == "__main__":
    import platform

    import uvicorn

    print(
        f"fastapi {fastapi.__version__}, uvicorn {uvicorn.__version__}, "
        f"python {platform.python_version()}"
    )
