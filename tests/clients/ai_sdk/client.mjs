// Asks a gateway with the AI SDK, and prints what came of each call.
//
// Standard input, a line for each question: {"baseURL", "apiKey", "calls": [{"call": "embed", "model": "...", ...}, ...]}.
// A call may have an `apiKey` of its own, or an `oidcToken` that stands in the environment instead of a key, and `byName:
// true` to name its model by a text alone, as the SDK's users do; `generationOf: 0` instead of an `id` means the
// generation of the first call. Other fields are the call's arguments. Standard output, a line for each question: a list
// with {"value": ...} or {"error": ...} for each call, in their order, with the milliseconds that it took and the
// warnings that the SDK would have shown.

import { createInterface } from 'node:readline';

const embeddingModel = (gateway, { model, byName }) => (byName ? model : gateway.textEmbeddingModel(model));

const CALLS = {
  async embed(ai, gateway, { model, byName, ...rest }) {
    const { embedding, usage, warnings, providerMetadata } = await ai.embed({
      model: embeddingModel(gateway, { model, byName }),
      ...rest,
    });
    return { embedding, usage, warnings, providerMetadata };
  },

  async embedMany(ai, gateway, { model, byName, ...rest }) {
    const { embeddings, usage, warnings, providerMetadata } = await ai.embedMany({
      model: embeddingModel(gateway, { model, byName }),
      ...rest,
    });
    return { embeddings, usage, warnings, providerMetadata };
  },

  async rerank(ai, gateway, { model, ...rest }) {
    const { ranking, rerankedDocuments, providerMetadata } = await ai.rerank({
      model: gateway.rerankingModel(model),
      ...rest,
    });
    return { ranking, rerankedDocuments, providerMetadata };
  },

  getAvailableModels: (ai, gateway) => gateway.getAvailableModels(),
  getCredits: (ai, gateway) => gateway.getCredits(),
  getGenerationInfo: (ai, gateway, { id, generationOf }, outcomes) =>
    gateway.getGenerationInfo({ id: id ?? outcomes[generationOf].value.providerMetadata.gateway.generationId }),
  getSpendReport: (ai, gateway, params) => gateway.getSpendReport(params),
};

function describe(error) {
  // After more than one attempt the SDK wraps the last failure.
  const last = error.lastError ?? error;
  const { name, type, statusCode, message, modelId, ruleId, generationId, isRetryable } = last;
  const attempts = error.errors?.length ?? 1;
  return { name, type, statusCode, message, modelId, ruleId, generationId, isRetryable, attempts };
}

async function answer(ai, createGateway, { baseURL, apiKey, calls }) {
  const outcomes = [];
  for (const { call, apiKey: ownKey, oidcToken, ...rest } of calls) {
    if (oidcToken) process.env.VERCEL_OIDC_TOKEN = oidcToken;
    const gateway = createGateway(oidcToken ? { baseURL } : { baseURL, apiKey: ownKey ?? apiKey });
    const shown = [];
    globalThis.AI_SDK_DEFAULT_PROVIDER = gateway;
    globalThis.AI_SDK_LOG_WARNINGS = ({ warnings }) => shown.push(...warnings);
    const start = performance.now();
    const outcome = await CALLS[call](ai, gateway, rest, outcomes).then(
      value => ({ value }),
      error => ({ error: describe(error) }),
    );
    outcomes.push({ ...outcome, shown, milliseconds: performance.now() - start });
  }
  return outcomes;
}

export async function run(ai, createGateway) {
  delete process.env.AI_GATEWAY_API_KEY;
  for await (const line of createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await answer(ai, createGateway, JSON.parse(line))));
  }
}
