// The tasks application on Express and pg, with a pool of connections (pg's default of ten).
const crypto = require("node:crypto");
const express = require("express");
const { Pool } = require("pg");

const LIST = `SELECT json_build_object('tasks', (SELECT coalesce(json_agg(page), '[]') FROM (
  SELECT * FROM tasks ORDER BY created_at DESC, id LIMIT $2::bigint
  OFFSET ($1::bigint - 1) * $2::bigint) page),
  'total', (SELECT count(*) FROM tasks), 'page', $1::bigint, 'limit', $2::bigint) AS reply`;
const GET = "SELECT * FROM tasks WHERE id = $1";
const CREATE = `INSERT INTO tasks (id, title, description, completed, priority)
  VALUES ($1, $2, $3, $4, $5) RETURNING *`;

const pool = new Pool({ host: process.env.PGHOST, user: process.env.PGUSER, database: process.env.PGDATABASE });
const app = express();
app.disable("x-powered-by");
app.disable("etag");
app.use(express.json());

const answer = (work) => async (request, response) => {
  try {
    await work(request, response);
  } catch (error) {
    response.status(503).json({ detail: error.message });
  }
};

app.get("/tasks", answer(async (request, response) => {
  const { page = 1, limit = 20 } = request.query;
  const found = await pool.query({ name: "list", text: LIST, values: [page, limit] });
  response.json(found.rows[0].reply);
}));
app.get("/tasks/:id", answer(async (request, response) => {
  const found = await pool.query({ name: "get", text: GET, values: [request.params.id] });
  if (found.rows.length === 0) response.sendStatus(404);
  else response.json(found.rows[0]);
}));
app.post("/tasks", answer(async (request, response) => {
  const { title, description = null, completed = false, priority = 0 } = request.body;
  const values = [crypto.randomUUID(), title, description, completed, priority];
  const made = await pool.query({ name: "create", text: CREATE, values });
  response.status(201).json(made.rows[0]);
}));
app.listen(Number(process.argv[2]), "127.0.0.1", 4096).keepAliveTimeout = 300_000;
