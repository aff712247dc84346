// Drives a cluster through the official JavaScript client: node client.mjs KUBECONFIG IMAGE MODULE, the last being the client's main file.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { PassThrough, Readable } from 'node:stream';
import { setTimeout as deadline } from 'node:timers/promises';

const TIME_MAX_MS = 60_000;
const NAMESPACE = 'javascript';
const [kubeconfig, image, module] = process.argv.slice(2);
const k8s = await import(module);

const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const namespace = NAMESPACE;

// `isReady` is a command that succeeds once the pod may be asked; without it, it is ready as soon as it runs.
function pod(name, command, isReady) {
  const probe = isReady && { exec: { command: ['sh', '-c', isReady] }, periodSeconds: 1 };
  const container = { name: 'main', image, command: ['sh', '-c', command], readinessProbe: probe };
  return { metadata: { name, labels: { app: name } }, spec: { terminationGracePeriodSeconds: 1, containers: [container] } };
}

function within(what, promise) {
  const late = deadline(TIME_MAX_MS, undefined, { ref: false }).then(() => assert.fail(`${what}: not in time`));
  return Promise.race([promise, late]);
}

async function step(what, run) {
  await within(what, run());
  console.log(`${what}: ok`);
}

/** Watches until `enough(type, object)`; the types seen. */
function watchUntil(path, query, enough) {
  return new Promise((resolve, reject) => {
    const seen = [];
    let done = false;
    let controller;
    const event = (type, object) => {
      if (done) return;
      seen.push(type);
      if (enough(type, object)) {
        done = true;
        resolve(seen);
        controller?.abort();
      }
    };
    const end = (error) => (done ? undefined : reject(error ?? new Error(`the watch of ${path} ended`)));
    new k8s.Watch(config).watch(path, query, event, end).then((it) => {
      controller = it;
      if (done) it.abort();
    }, reject);
  });
}

const ready = (_, object) => object.status?.containerStatuses?.[0]?.ready === true;
const named = (name) => ({ fieldSelector: `metadata.name=${name}` });

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks.map((chunk) => Buffer.from(chunk))).toString();
}

function exec(command, stdin) {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  return new Promise((resolve, reject) => {
    const texts = Promise.all([collect(stdout), collect(stderr)]);
    const ended = async (status) => {
      stdout.end();
      stderr.end();
      resolve({ status, texts: await texts });
    };
    new k8s.Exec(config).exec(namespace, 'talker', 'main', command, stdout, stderr, stdin, false, ended).catch(reject);
  });
}

await core.createNamespace({ body: { metadata: { name: NAMESPACE } } });

let since;
await step('create', async () => {
  const made = await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'settings' }, data: { a: '1' } } });
  assert.deepEqual(made.data, { a: '1' });
  since = made.metadata.resourceVersion;
});
await step('create again', () =>
  assert.rejects(core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'settings' } } }), (error) => error.code === 409));
await step('merge patch', async () => {
  const type = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch);
  const changed = await core.patchNamespacedConfigMap({ name: 'settings', namespace, body: { data: { b: '2' } } }, type);
  assert.deepEqual(changed.data, { a: '1', b: '2' });
});
await step('json patch', async () => {
  const body = [{ op: 'remove', path: '/data/a' }];
  assert.deepEqual((await core.patchNamespacedConfigMap({ name: 'settings', namespace, body })).data, { b: '2' });
});
await step('delete', async () => {
  await core.deleteNamespacedConfigMap({ name: 'settings', namespace });
  await assert.rejects(core.readNamespacedConfigMap({ name: 'settings', namespace }), (error) => error.code === 404);
});
await step('watch from a resourceVersion', async () => {
  const query = { ...named('settings'), resourceVersion: since };
  const seen = await watchUntil(`/api/v1/namespaces/${namespace}/configmaps`, query, (type) => type === 'DELETED');
  assert.deepEqual(seen, ['MODIFIED', 'MODIFIED', 'DELETED']);
});

const pods = `/api/v1/namespaces/${namespace}/pods`;
await step('a pod becomes ready', async () => {
  const command = 'mkdir /www; echo served > /www/index.html; echo one; echo two; exec httpd -f -p 8080 -h /www';
  await core.createNamespacedPod({ namespace, body: pod('talker', command, 'wget -q -O- 127.0.0.1:8080') });
  await watchUntil(pods, named('talker'), ready);
});
await step('list', async () => {
  const names = (list) => list.items.map((item) => item.metadata.name);
  assert.deepEqual(names(await core.listNamespacedPod({ namespace, labelSelector: 'app=talker' })), ['talker']);
  assert.deepEqual(names(await core.listNamespacedPod({ namespace, labelSelector: 'app=other' })), []);
});
await step('logs', async () => assert.equal(await core.readNamespacedPodLog({ name: 'talker', namespace, tailLines: 1 }), 'two\n'));
await step('logs that are followed', async () => {
  await core.createNamespacedPod({ namespace, body: pod('counter', 'for i in 1 2 3; do echo line $i; sleep 0.2; done') });
  await watchUntil(pods, named('counter'), (_, object) => object.status?.phase !== 'Pending');
  const stream = new PassThrough();
  const text = collect(stream);
  await new k8s.Log(config).log(namespace, 'counter', 'main', stream, { follow: true });
  assert.equal(await text, 'line 1\nline 2\nline 3\n');
});
await step('exec', async () => {
  const { status, texts } = await exec(['sh', '-c', 'echo out; echo err >&2; exit 3'], null);
  assert.deepEqual(texts, ['out\n', 'err\n']);
  assert.equal(status.status, 'Failure');
  assert.deepEqual(status.details.causes, [{ reason: 'ExitCode', message: '3' }]);
});
await step('exec with input', async () => {
  const { status, texts } = await exec(['sh', '-c', 'read line; echo got $line'], Readable.from(['hello\n']));
  assert.deepEqual(texts, ['got hello\n', '']);
  assert.equal(status.status, 'Success');
});
await step('port-forward', async () => {
  const forward = new k8s.PortForward(config);
  const server = net.createServer((socket) => forward.portForward(namespace, 'talker', [8080], socket, null, socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const socket = net.connect(server.address().port, '127.0.0.1');
  socket.write('GET / HTTP/1.0\r\n\r\n');
  let answer = '';
  for await (const chunk of socket) {
    answer += chunk;
    if (answer.endsWith('served\n')) break;
  }
  assert.match(answer, /served\n$/);
  server.close();
});
await step('an informer', async () => {
  const informer = k8s.makeInformer(config, pods, () => core.listNamespacedPod({ namespace }));
  const added = new Set();
  const both = new Promise((resolve) => informer.on('add', (object) => added.add(object.metadata.name).size === 2 && resolve()));
  await informer.start();
  await both;
  await informer.stop();
});
await step('a deployment', async () => {
  const spec = pod('twins', 'exec sleep 1000').spec;
  const template = { metadata: { labels: { app: 'twins' } }, spec };
  const body = { metadata: { name: 'twins' }, spec: { replicas: 1, selector: { matchLabels: { app: 'twins' } }, template } };
  await apps.createNamespacedDeployment({ namespace, body });
  const type = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.StrategicMergePatch);
  await apps.patchNamespacedDeploymentScale({ name: 'twins', namespace, body: { spec: { replicas: 2 } } }, type);
  const path = `/apis/apps/v1/namespaces/${namespace}/deployments`;
  await watchUntil(path, named('twins'), (_, object) => object.status?.readyReplicas === 2);
});
await step('server-side apply', async () => {
  const objects = k8s.KubernetesObjectApi.makeApiClient(config);
  const spec = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'applied', namespace }, data: { a: '1' } };
  const applied = await objects.patch(spec, undefined, undefined, 'tests', true, k8s.PatchStrategy.ServerSideApply);
  assert.deepEqual(applied.data, { a: '1' });
});
await step('delete the namespace', async () => {
  await core.deleteNamespace({ name: NAMESPACE });
  await watchUntil('/api/v1/namespaces', named(NAMESPACE), (type) => type === 'DELETED');
});
console.log('done');
process.exit(0);
