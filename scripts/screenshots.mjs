// Takes the pictures of docs/images from a running Airflow in which the example DAG has finished runs:
//
//     npm install --no-save playwright-core
//     CHROMIUM=/usr/bin/chromium node scripts/screenshots.mjs http://127.0.0.1:8080
//
// The Airflow must let everybody in ([core] simple_auth_manager_all_admins).

import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const DAG = "wine_quality_retraining";
const airflow = process.argv[2];
const images = fileURLToPath(new URL("../docs/images/", import.meta.url));

const { access_token: token } = await (await fetch(`${airflow}/auth/token`)).json();
const answer = await fetch(`${airflow}/api/v2/dags/${DAG}/dagRuns?state=success&order_by=id`, {
  headers: { Authorization: `Bearer ${token}` },
});
const run = (await answer.json()).dag_runs[0].dag_run_id;

const quiet = ["disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"];
const browser = await chromium.launchPersistentContext(await mkdtemp(join(tmpdir(), "screenshots-")), {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["headless=new", "no-sandbox", "disable-gpu", ...quiet].map((name) => `--${name}`),
  colorScheme: "light",
});
const page = browser.pages()[0];

async function take(name, height, path) {
  await page.setViewportSize({ width: 1440, height });
  await page.goto(`${airflow}/dags/${DAG}/runs/${encodeURIComponent(run)}${path}`, { waitUntil: "networkidle" });
  // All runs fit into the grid when it is a little wider.
  const edge = await page.getByRole("separator").first().boundingBox();
  await page.mouse.move(edge.x + edge.width / 2, height / 3);
  await page.mouse.down();
  await page.mouse.move(385, height / 3, { steps: 5 });
  await page.mouse.up();
  await page.mouse.move(700, 20);
  await page.waitForTimeout(2000); // bars and buttons move into place
  await page.screenshot({ path: join(images, name) });
}

await take("airflow-grid.png", 818, "?sort=start_date");
await take("airflow-task.png", 598, "/tasks/train/mapped/1/details");
await browser.close();
