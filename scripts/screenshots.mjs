// Takes the pictures of docs/images from a running Airflow in which the example DAG has finished runs, from a running
// Prefect in which the example flow has, or from both:
//
//     npm install --no-save playwright-core
//     CHROMIUM=/usr/bin/chromium node scripts/screenshots.mjs --airflow http://127.0.0.1:8080 --prefect http://127.0.0.1:4200
//
// The Airflow must let everybody in ([core] simple_auth_manager_all_admins).

import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const NAME = "wine_quality_retraining"; // of the DAG, and of the flow
const { airflow, prefect } = parseArgs({ options: { airflow: { type: "string" }, prefect: { type: "string" } } }).values;
const images = fileURLToPath(new URL("../docs/images/", import.meta.url));

const quiet = ["disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"];
const browser = await chromium.launchPersistentContext(await mkdtemp(join(tmpdir(), "screenshots-")), {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["headless=new", "no-sandbox", "disable-gpu", ...quiet].map((name) => `--${name}`),
  colorScheme: "light",
});
const page = browser.pages()[0];

async function open(url, height) {
  await page.setViewportSize({ width: 1440, height });
  await page.goto(url, { waitUntil: "networkidle" });
}

async function shoot(name) {
  await page.waitForTimeout(2000); // bars and buttons move into place
  await page.screenshot({ path: join(images, name) });
}

async function takeAirflow() {
  const { access_token: token } = await (await fetch(`${airflow}/auth/token`)).json();
  const answer = await fetch(`${airflow}/api/v2/dags/${NAME}/dagRuns?state=success&order_by=id`, {
    headers: { Authorization: `Bearer ${token}` },
  });
  const run = (await answer.json()).dag_runs[0].dag_run_id;

  async function take(name, height, path) {
    await open(`${airflow}/dags/${NAME}/runs/${encodeURIComponent(run)}${path}`, height);
    // All runs fit into the grid when it is a little wider.
    const edge = await page.getByRole("separator").first().boundingBox();
    await page.mouse.move(edge.x + edge.width / 2, height / 3);
    await page.mouse.down();
    await page.mouse.move(385, height / 3, { steps: 5 });
    await page.mouse.up();
    await page.mouse.move(700, 20);
    await shoot(name);
  }

  await take("airflow-grid.png", 818, "?sort=start_date");
  await take("airflow-task.png", 598, "/tasks/train/mapped/1/details");
}

async function takePrefect() {
  async function first(kind, filters) {
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify(filters);
    const answer = await fetch(`${prefect}/api/${kind}/filter`, { method: "POST", headers, body });
    return (await answer.json())[0].id;
  }

  const run = await first("flow_runs", {
    flows: { name: { any_: [NAME] } },
    flow_runs: { state: { type: { any_: ["COMPLETED"] } } },
    sort: "START_TIME_ASC",
  });
  const flow_runs = { id: { any_: [run] } };
  const training = await first("task_runs", { flow_runs, task_runs: { name: { any_: ["train, penalty 1.0"] } } });
  const artifacts = { task_run_id: { any_: [training] }, type: { any_: ["table"] } };
  const table = await first("artifacts", { artifacts });

  await page.addInitScript(() => localStorage.setItem("color-scheme", JSON.stringify("light")));
  await open(`${prefect}/runs/flow-run/${run}`, 580);
  await page.getByText("Artifacts", { exact: true }).click();
  await shoot("prefect-flow-run.png");
  await open(`${prefect}/artifacts/artifact/${table}`, 598);
  await shoot("prefect-artifacts.png");
}

if (airflow) await takeAirflow();
if (prefect) await takePrefect();
await browser.close();
