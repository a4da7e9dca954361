// Express in production mode. No ETag: no other peer computes one for this reply.
const express = require("express");

const port = process.argv[2];
if (port === "--version") {
  console.log(`express ${require("express/package.json").version}, node ${process.version}`);
} else {
  const app = express();
  app.disable("x-powered-by");
  app.disable("etag");
  app.get("/hello", (request, response) => response.type("text/plain").send("Hello, World!"));
  app.listen(Number(port), "127.0.0.1", 4096).keepAliveTimeout = 300_000;
}
