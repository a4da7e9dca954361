// NestJS on its default adapter, in plain JavaScript: decorators are functions.
require("reflect-metadata");
const { Controller, Get, Header, Module } = require("@nestjs/common");
const { NestFactory } = require("@nestjs/core");

class HelloController {
  hello() {
    return "Hello, World!";
  }
}
const method = Object.getOwnPropertyDescriptor(HelloController.prototype, "hello");
Header("Content-Type", "text/plain")(HelloController.prototype, "hello", method);
Get("hello")(HelloController.prototype, "hello", method);
Controller()(HelloController);

class HelloModule {}
Module({ controllers: [HelloController] })(HelloModule);

async function serve(port) {
  const app = await NestFactory.create(HelloModule, { logger: false });
  app.getHttpAdapter().getInstance().disable("x-powered-by");
  app.getHttpAdapter().getInstance().disable("etag");
  app.getHttpServer().keepAliveTimeout = 300_000;
  await app.listen(port, "127.0.0.1");
}

const port = process.argv[2];
if (port === "--version") {
  console.log(`nestjs ${require("@nestjs/core/package.json").version}, node ${process.version}`);
} else {
  serve(Number(port));
}
